// The network device with limits, on a socket.
#include "tests/unit/support/net_socket.h"

namespace spore {
namespace {

using test::NetSocketTest;
using test::number_of;
using test::numbered_frame;

class NetRateTest : public NetSocketTest {
  protected:
    // Three frames of 100 bytes, and the next after 100 s.
    static constexpr RateLimits kThreeOnly = {.bytes = {1, 300}};

    void send_frames(uint32_t count) {
        for (uint32_t number = 0; number < count; number++)
            guest->send(numbered_frame(number, 100));
        guest->device->kick();
    }
};

TEST_F(NetRateTest, HoldsWhatTheGuestSendsInItsQueue) {
    start();
    guest->device->tx_rate().change(kThreeOnly);
    send_frames(10);
    for (uint32_t number = 0; number < 3; number++)
        EXPECT_EQ(number_of(expect_peer_receives()), number);
    EXPECT_TRUE(guest->device->tx_rate().waiting());
    EXPECT_FALSE(guest->device->rx_rate().waiting());
    EXPECT_EQ(guest->device->queues()[VirtioNet::kTxQueue].waiting(), 7);
    guest->device->tx_rate().change({});
    for (uint32_t number = 3; number < 10; number++)
        EXPECT_EQ(number_of(expect_peer_receives()), number) << "none lost, in their order";
}

TEST_F(NetRateTest, HoldsBackWhatComesInWithoutLosingAny) {
    start();
    guest->add_buffers(16, 2048);
    guest->device->rx_rate().change(kThreeOnly);
    for (uint32_t number = 0; number < 8; number++)
        peer_send(numbered_frame(number, 100));
    for (uint32_t number = 0; number < 3; number++)
        EXPECT_EQ(number_of(expect_guest_receives().bytes), number);
    wait([&] { return guest->device->rx_rate().waiting(); });
    EXPECT_FALSE(guest->receive().has_value());
    EXPECT_EQ(counters().rx_frames, 3u);
    // The other direction goes on meanwhile.
    send_frames(5);
    for (uint32_t number = 0; number < 5; number++)
        EXPECT_EQ(number_of(expect_peer_receives()), number);
    EXPECT_FALSE(guest->receive().has_value());
    guest->device->rx_rate().change({});
    for (uint32_t number = 3; number < 8; number++)
        EXPECT_EQ(number_of(expect_guest_receives().bytes), number);
    EXPECT_EQ(counters().rx_dropped, 0u);
}

TEST_F(NetRateTest, QuiescesWithBothDirectionsHeldAndGoesOn) {
    start();
    guest->add_buffers(16, 2048);
    guest->device->rx_rate().change(kThreeOnly);
    guest->device->tx_rate().change(kThreeOnly);
    send_frames(4);
    for (uint32_t number = 0; number < 4; number++)
        peer_send(numbered_frame(number, 100));
    wait([&] { return guest->device->rx_rate().waiting() && guest->device->tx_rate().waiting(); });
    quiesce();
    EXPECT_FALSE(guest->device->rx_rate().waiting());
    EXPECT_FALSE(guest->device->tx_rate().waiting());
    guest->device->resume();
    EXPECT_TRUE(guest->device->tx_rate().waiting());
    guest->device->rx_rate().change({});
    guest->device->tx_rate().change({});
    for (uint32_t number = 0; number < 4; number++) {
        EXPECT_EQ(number_of(expect_guest_receives().bytes), number);
        EXPECT_EQ(number_of(expect_peer_receives()), number);
    }
}

TEST_F(NetRateTest, ResetForgetsWhatWaits) {
    start();
    guest->device->tx_rate().change(kThreeOnly);
    send_frames(4);
    wait([&] { return guest->device->tx_rate().waiting(); });
    reset();
    EXPECT_FALSE(guest->device->tx_rate().waiting());
}

TEST(PacketsOf, CountsWhatSegmentationMakes) {
    EXPECT_EQ(packets_of({}, 60'000), 1u);
    EXPECT_EQ(packets_of({.gso_type = kNetGsoTcp4, .gso_size = 1448}, 1448), 1u);
    EXPECT_EQ(packets_of({.gso_type = kNetGsoTcp4, .gso_size = 1448}, 1449), 2u);
    EXPECT_EQ(packets_of({.gso_type = kNetGsoTcp6, .gso_size = 100}, 65'000), 650u);
}

}  // namespace
}  // namespace spore
