// The network device on a socket: frames both ways.
#include "devices/virtio/net.h"

#include "tests/unit/support/net_socket.h"

namespace spore {
namespace {

using test::framed;
using test::is_intact;
using test::kMergeable;
using test::NetSocketTest;
using test::number_of;
using test::numbered_frame;

TEST_F(NetSocketTest, OffersNoOffloadsOnASocket) {
    auto device = make_device();
    EXPECT_EQ(device->device_id(), 1);
    uint64_t offered = device->offered_features();
    for (unsigned feature : {kNetMac, kNetStatus, kNetMergeableBuffers})
        EXPECT_TRUE(offered >> feature & 1) << feature;
    for (unsigned feature :
         {kNetCsum, kNetGuestCsum, kNetGuestTso4, kNetGuestTso6, kNetHostTso4, kNetHostTso6})
        EXPECT_FALSE(offered >> feature & 1) << feature;
}

TEST_F(NetSocketTest, ConfigurationSpaceHasAddressAndLink) {
    auto device = make_device();
    std::byte bytes[12];
    std::ranges::fill(bytes, std::byte{0xff});
    device->read_config(0, bytes);
    const uint8_t expected[12] = {2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0};
    EXPECT_EQ(std::memcmp(bytes, expected, sizeof(expected)), 0);
    device->read_config(6, std::span(bytes, 2));
    EXPECT_EQ(bytes[0], std::byte{1});
    device->read_config(~0u, std::span(bytes, 2));
    EXPECT_EQ(bytes[0], std::byte{0}) << "zeroes beyond the end";
}

TEST_F(NetSocketTest, SendsAFrameBehindItsLength) {
    start();
    std::string frame = numbered_frame(7, 100);
    guest->send(frame);
    guest->device->kick();
    std::string bytes(200, '\0');
    wait([&] { return guest->tx.used_index() == 1; });
    ssize_t got = ::recv(peer.get(), bytes.data(), bytes.size(), 0);
    ASSERT_EQ(got, 104);
    bytes.resize(104);
    EXPECT_EQ(bytes, framed(frame));
    EXPECT_EQ(counters().tx_frames, 1u);
    EXPECT_EQ(counters().tx_bytes, 100u);
    EXPECT_EQ(guest->line.used[VirtioNet::kTxQueue], 1u);
    EXPECT_EQ(guest->tx.take_used()->written, 0u);
}

TEST_F(NetSocketTest, GathersAFrameFromManyDescriptors) {
    start();
    std::string frame = numbered_frame(7, 500);
    std::string packet(12, '\0');
    packet += frame;
    std::vector<test::Buffer> pieces;
    for (size_t offset = 0; offset < packet.size(); offset += 5)
        pieces.push_back(
            guest->tx.readable(test::bytes_of(std::string_view(packet).substr(offset, 5))));
    guest->tx.add(pieces);
    guest->device->kick();
    EXPECT_EQ(expect_peer_receives(), frame);
}

TEST_F(NetSocketTest, ReceivesAFrame) {
    start();
    guest->add_buffers(4, 1526);
    std::string frame = numbered_frame(1, 1514);
    peer_send(frame);
    auto received = expect_guest_receives();
    EXPECT_EQ(received.bytes, frame);
    EXPECT_EQ(received.header.buffers, 1);
    EXPECT_EQ(received.header.flags, 0);
    EXPECT_EQ(counters().rx_frames, 1u);
    EXPECT_EQ(counters().rx_bytes, 1514u);
    EXPECT_EQ(guest->line.used[VirtioNet::kRxQueue], 1u);
}

TEST_F(NetSocketTest, ReceivesFramesThatComeByteByByte) {
    start();
    guest->add_buffers(4, 1526);
    std::string bytes = framed(numbered_frame(1, 60)) + framed(numbered_frame(2, 61));
    for (char byte : bytes) {
        ASSERT_EQ(::send(peer.get(), &byte, 1, 0), 1);
        loop->run_until([] { return false; }, std::chrono::milliseconds(1));
    }
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(1, 60));
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(2, 61));
}

TEST_F(NetSocketTest, SpreadsALargeFrameOverSeveralBuffers) {
    start();
    guest->add_buffers(100, 100, 2);
    for (size_t size : {188u, 189u, 388u, 389u, 9000u}) {
        std::string frame = numbered_frame(static_cast<uint32_t>(size), size);
        peer_send(frame);
        auto received = expect_guest_receives();
        EXPECT_EQ(received.bytes, frame);
        EXPECT_EQ(received.header.buffers, (12 + size + 199) / 200);
    }
    EXPECT_EQ(counters().rx_dropped, 0u);
}

TEST_F(NetSocketTest, WaitsForTheRestOfTheBuffersThatAFrameNeeds) {
    start();
    guest->add_buffers(3, 100);
    std::string large = numbered_frame(1, 1000);
    std::string small = numbered_frame(2, 60);
    peer_send(large);
    peer_send(small);
    loop->run_until([] { return false; }, std::chrono::milliseconds(20));
    EXPECT_EQ(guest->rx.used_index(), 0) << "nothing of the frame may show yet";
    guest->add_buffers(9, 100);
    guest->device->kick();
    EXPECT_EQ(expect_guest_receives().bytes, large);
    EXPECT_EQ(expect_guest_receives().bytes, small);
}

TEST_F(NetSocketTest, DropsAFrameThatAllBuffersTogetherCannotHold) {
    start();
    guest->add_buffers(256, 20);
    peer_send(numbered_frame(1, 6000));
    peer_send(numbered_frame(2, 60));
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(2, 60));
    EXPECT_EQ(counters().rx_dropped, 1u);
}

TEST_F(NetSocketTest, WithoutMergeableBuffersDropsWhatIsTooLargeAndKeepsTheBuffer) {
    start(0);
    guest->add_buffers(1, 200);
    peer_send(numbered_frame(1, 189));
    peer_send(numbered_frame(2, 188));
    auto received = expect_guest_receives();
    EXPECT_EQ(received.bytes, numbered_frame(2, 188));
    EXPECT_EQ(received.header.buffers, 1);
    EXPECT_EQ(counters().rx_dropped, 1u);
}

TEST_F(NetSocketTest, DropsWhatIsTooShortForEthernet) {
    start();
    guest->add_buffers(2, 1526);
    peer_send("");
    peer_send(std::string(13, 'x'));
    peer_send(std::string(14, 'x'));
    EXPECT_EQ(expect_guest_receives().bytes, std::string(14, 'x'));
    EXPECT_EQ(counters().rx_dropped, 2u);
}

TEST_F(NetSocketTest, StopsReadingWithoutBuffersAndGoesOnUponAKick) {
    start();
    // As much as the socket and one buffer of the device hold; then the peer's socket is full.
    uint32_t sent = 0;
    auto fill = [&] {
        while (peer_out.empty())
            peer_send(numbered_frame(sent++, 1514));
    };
    fill();
    loop->run_until([] { return false; }, std::chrono::milliseconds(20));
    peer_flush();
    if (peer_out.empty())
        fill();
    loop->run_until([] { return false; }, std::chrono::milliseconds(20));
    EXPECT_EQ(guest->rx.used_index(), 0);
    EXPECT_FALSE(guest->line.failures);

    guest->add_buffers(100, 1526);
    guest->device->kick();
    uint32_t received = 0;
    wait([&] {
        peer_flush();
        while (auto frame = guest->receive()) {
            EXPECT_TRUE(is_intact(frame->bytes));
            EXPECT_EQ(number_of(frame->bytes), received++);
        }
        guest->device->kick();
        return received == sent;
    });
    EXPECT_GT(sent, 100u);
}

TEST_F(NetSocketTest, AsksForAKickOnlyWhileAFrameWaits) {
    start();
    EXPECT_EQ(guest->rx.used_flags(), kUsedNoNotify);
    peer_send(numbered_frame(1, 60));
    wait([&] { return guest->rx.used_flags() == 0; });
    guest->add_buffers(1, 1526);
    guest->device->kick();
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(1, 60));
    EXPECT_EQ(guest->rx.used_flags(), kUsedNoNotify);
}

TEST_F(NetSocketTest, CarriesAHundredThousandFramesEachWay) {
    start(kMergeable | feature_bit(kFeatureEventIndex));
    guest->add_buffers(128, 600);
    constexpr uint32_t kFrames = 100'000;
    auto size_of = [](uint32_t number) { return 30 + number * 7919u % 1485; };
    uint32_t peer_sent = 0, peer_received = 0, guest_sent = 0, guest_received = 0;
    bool intact = true;
    wait([&] {
        for (; peer_sent < kFrames && peer_out.empty(); peer_sent++)
            peer_send(numbered_frame(peer_sent, size_of(peer_sent)));
        peer_flush();
        for (auto frame = peer_receive(); frame; frame = peer_receive(false))
            intact &= is_intact(*frame) && number_of(*frame) == peer_received++;
        while (auto frame = guest->receive())
            intact &= is_intact(frame->bytes) && number_of(frame->bytes) == guest_received++;
        guest->reclaim();
        for (; guest_sent < kFrames && guest->can_send(); guest_sent++)
            guest->send(numbered_frame(guest_sent, size_of(guest_sent)));
        guest->device->kick();
        return !intact || (peer_received == kFrames && guest_received == kFrames);
    });
    EXPECT_TRUE(intact) << peer_received << " " << guest_received;
    EXPECT_EQ(counters().tx_frames, kFrames);
    EXPECT_EQ(counters().rx_frames, kFrames);
    EXPECT_EQ(counters().tx_bytes, counters().rx_bytes);
    EXPECT_EQ(counters().rx_dropped + counters().tx_dropped, 0u);
    EXPECT_EQ(guest->line.failures, 0u);
}

TEST_F(NetSocketTest, FinishesACutFrameAfterAPause) {
    start();
    // More than the socket takes: what is in flight when the device pauses is cut in a frame.
    for (uint32_t number = 0; number < 40; number++)
        guest->send(numbered_frame(number, 60'000));
    guest->device->kick();
    quiesce();
    EXPECT_EQ(guest->tx.used_index(), 40) << "no chain may be kept over a pause";
    uint64_t lost = counters().tx_dropped;
    EXPECT_GT(lost, 0u);
    guest->device->resume();
    guest->reclaim();
    guest->send(numbered_frame(40, 1000));
    guest->device->kick();
    uint32_t received = 0;
    uint32_t last = 0;
    wait([&] {
        while (auto frame = peer_receive()) {
            EXPECT_TRUE(is_intact(*frame));
            last = number_of(*frame);
            received++;
        }
        return last == 40;
    });
    EXPECT_EQ(received, 41 - lost);
}

TEST_F(NetSocketTest, SendsLargeFramesToASlowPeer) {
    start();
    for (uint32_t number = 0; number < 60; number++)
        guest->send(numbered_frame(number, 65'550 - number));
    guest->device->kick();
    for (uint32_t number = 0; number < 60; number++) {
        std::string frame = expect_peer_receives();
        EXPECT_TRUE(is_intact(frame));
        EXPECT_EQ(number_of(frame), number);
        EXPECT_EQ(frame.size(), 65'550 - number);
    }
}

TEST_F(NetSocketTest, DropsAndCountsMalformedPackets) {
    start();
    auto header = [](auto change) {
        NetHeader wrong;
        change(wrong);
        return wrong;
    };
    std::string frame = numbered_frame(1, 100);
    // Nothing of offloads was negotiated.
    guest->send(frame, header([](NetHeader& h) { h.flags = kNetNeedsCsum; }));
    guest->send(frame, header([](NetHeader& h) { h.flags = 2; }));
    guest->send(frame, header([](NetHeader& h) {
                    h.gso_type = kNetGsoTcp4;
                    h.gso_size = 1;
                }));
    guest->send(frame, header([](NetHeader& h) { h.gso_type = 0xff; }));
    guest->send(frame, header([](NetHeader& h) { h.header_bytes = 101; }));
    guest->send(std::string(13, 'x'));
    guest->send(std::string(65'551, 'x'));
    guest->tx.add({guest->tx.readable(test::bytes_of(std::string_view("short")))});
    guest->tx.add({guest->tx.writable(100)});
    guest->send(frame);
    guest->device->kick();
    EXPECT_EQ(expect_peer_receives(), frame);
    wait([&] { return guest->tx.used_index() == 10; });
    EXPECT_EQ(counters().tx_dropped, 9u);
    EXPECT_EQ(counters().tx_frames, 1u);
    EXPECT_EQ(guest->device->counters().guest_errors, 9u);
    EXPECT_EQ(guest->line.failures, 0u);
}

}  // namespace
}  // namespace spore
