// The network device's life: configuration, failures, pauses, resets.
#include <sys/un.h>

#include <filesystem>
#include <set>

#include "devices/virtio/net.h"
#include "tests/unit/support/net_socket.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

using test::framed;
using test::kMergeable;
using test::NetGuest;
using test::NetSocketTest;
using test::numbered_frame;

TEST_F(NetSocketTest, ABrokenTransmitQueueNeedsAReset) {
    start();
    guest->tx.publish(9999);
    guest->device->kick();
    EXPECT_EQ(guest->line.failures, 1u);
    EXPECT_EQ(guest->device->first_error().code, Code::corrupt);
    guest->device->kick();
    EXPECT_EQ(guest->device->counters().guest_errors, 1u);

    reset();
    guest = std::make_unique<NetGuest>(std::move(guest->device), memory, kMergeable);
    guest->send(numbered_frame(1, 60));
    guest->device->kick();
    EXPECT_EQ(expect_peer_receives(), numbered_frame(1, 60));
}

TEST_F(NetSocketTest, ABrokenReceiveQueueNeedsAReset) {
    start();
    guest->add_buffers(1, 50);
    guest->rx.publish(9999);
    peer_send(numbered_frame(1, 60));  // the first buffer is too small for all of it
    wait([&] { return guest->line.failures > 0; });
    EXPECT_EQ(guest->rx.used_index(), 0);
    reset();
}

TEST_F(NetSocketTest, AReceiveBufferTooSmallForAHeaderNeedsAReset) {
    for (uint64_t features : {uint64_t{0}, kMergeable}) {
        start(features);
        guest->add_buffers(1, 11);
        peer_send(numbered_frame(1, 60));
        wait([&] { return guest->line.failures > 0; });
        EXPECT_NE(guest->device->first_error().message.find("11 bytes, at least 12"),
                  std::string::npos);
        reset();
        guest.reset();
    }
}

TEST_F(NetSocketTest, TakesTheLinkDownWhenThePeerGoes) {
    start();
    peer.reset();
    wait([&] { return guest->line.config > 0; });
    EXPECT_FALSE(guest->device->link_up());
    std::byte status[2];
    guest->device->read_config(6, status);
    EXPECT_EQ(status[0], std::byte{0});
    guest->send(numbered_frame(1, 60));
    guest->device->kick();
    wait([&] { return guest->tx.used_index() == 1; });
    EXPECT_EQ(counters().tx_dropped, 1u);
    EXPECT_EQ(guest->line.config, 1u);
}

TEST_F(NetSocketTest, TakesTheLinkDownWhenTheLengthIsNone) {
    start();
    guest->add_buffers(4, 1526);
    peer_out = framed(numbered_frame(1, 60)) + std::string("\x00\x01\x00\x0f", 4);  // 65551
    peer_flush();
    wait([&] { return guest->line.config > 0; });
    EXPECT_FALSE(guest->device->link_up());
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(1, 60));
    EXPECT_EQ(guest->device->counters().host_errors, 1u);
}

TEST_F(NetSocketTest, PausesWithAReadWaitingAndGoesOn) {
    start();
    guest->add_buffers(8, 1526);
    quiesce();
    EXPECT_EQ(loop->in_flight(), 0u);
    peer_send(numbered_frame(1, 60));
    loop->run_until([] { return false; }, std::chrono::milliseconds(10));
    EXPECT_EQ(guest->rx.used_index(), 0);
    guest->device->resume();
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(1, 60));
}

TEST_F(NetSocketTest, GoesOnInAnotherDeviceFromSavedState) {
    start();
    guest->add_buffers(8, 1526);
    peer_send(numbered_frame(1, 60));
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(1, 60));
    quiesce();
    std::vector<QueueState> states;
    for (Queue& queue : guest->device->queues())
        states.push_back(queue.state());
    uint64_t features = guest->device->features();
    guest->device = make_device();
    guest->device->attach(&guest->line);
    ASSERT_TRUE(guest->device->restore(features, states).has_value());
    guest->device->resume();
    peer_send(numbered_frame(2, 60));
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(2, 60));
    guest->send(numbered_frame(3, 60));
    guest->device->kick();
    EXPECT_EQ(expect_peer_receives(), numbered_frame(3, 60));
}

// Frames both ways at the moment of each snapshot. A buffer is given back once, by one of the
// devices; what the guest gets are whole frames that were sent, each at most once and in order.
// Some are lost on the way, as on any cable: what a socket or a device held is not in a snapshot.
TEST_F(NetSocketTest, GivesEveryBufferBackOnceFromOneDeviceToTheNext) {
    start();
    guest->add_buffers(16, 1526);
    uint32_t to_guest = 0, from_guest = 0, last = 0, received = 0;
    unsigned sent = 0, reclaimed = 0;
    std::set<uint32_t> tx_heads;
    auto send_some = [&] {
        for (unsigned count = 0; count < 20; count++, sent++) {
            NetHeader header;
            std::string frame = numbered_frame(++from_guest, 1000);
            tx_heads.insert(
                guest->tx.add({guest->tx.readable(test::bytes_of(header)),
                               guest->tx.readable(test::bytes_of(std::string_view(frame)))}));
        }
        guest->device->kick();
    };
    auto reclaim = [&] {
        while (auto used = guest->tx.take_used()) {
            EXPECT_EQ(tx_heads.erase(static_cast<uint16_t>(used->head)), 1u) << "given back twice";
            reclaimed++;
        }
    };
    auto receive = [&] {
        while (auto frame = guest->receive()) {  // which knows the buffers that it has posted
            EXPECT_TRUE(test::is_intact(frame->bytes));
            EXPECT_GT(test::number_of(frame->bytes), last);
            last = test::number_of(frame->bytes);
            received++;
        }
    };
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned count = 0; count < 10; count++)
            peer_send(numbered_frame(++to_guest, 1000));
        send_some();
        bool quiet = false;
        // At different points of the work.
        for (unsigned turn = 0; turn < round % 4; turn++) {
            bool turned = false;
            loop->post([&] { turned = true; });
            wait([&] { return turned; });
        }
        guest->device->quiesce([&] { quiet = true; });
        if (round % 2 == 1)
            send_some();  // the device does not look any more
        wait([&] { return quiet; });
        reclaim();
        receive();
        std::vector<QueueState> states;
        for (Queue& queue : guest->device->queues())
            states.push_back(queue.state());
        uint64_t features = guest->device->features();
        guest->device = make_device();  // another peer: what the old one's socket held is gone
        peer_out.clear();
        peer_in.clear();
        guest->device->attach(&guest->line);
        ASSERT_TRUE(guest->device->restore(features, states).has_value());
        guest->device->resume();
    }
    wait([&] {
        reclaim();
        while (peer_receive())
            ;
        return tx_heads.empty();
    });
    EXPECT_EQ(reclaimed, sent);
    EXPECT_EQ(sent, 30 * 20u + 15 * 20u);
    EXPECT_GT(received, 0u);
    peer_send(numbered_frame(++to_guest, 1000));
    EXPECT_EQ(test::number_of(expect_guest_receives().bytes), to_guest) << "and it goes on";
    EXPECT_EQ(guest->line.failures, 0u);
}

TEST_F(NetSocketTest, RefusesConfigurationsByFieldAndValue) {
    auto refused = [&](NetConfig config, Code code, std::string_view part) {
        auto device = VirtioNet::create(std::move(config), memory, *loop);
        ASSERT_FALSE(device.has_value()) << part;
        EXPECT_EQ(device.error().code, code) << device.error().message;
        EXPECT_NE(device.error().message.find(part), std::string::npos) << device.error().message;
    };
    auto with = [](auto change) {
        NetConfig config;
        config.mac = {2, 0, 0, 0, 0, 1};
        change(config);
        return config;
    };
    const ScratchDirectory scratch("net");
    const std::string directory = scratch.path();
    UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::string path = directory + "/socket";
    path.copy(address.sun_path, path.size());
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);

    refused(with([](NetConfig&) {}), Code::invalid_argument, "0 of tap");
    refused(with([](NetConfig& c) {
                c.tap = "a";
                c.socket_path = "b";
            }),
            Code::invalid_argument, "2 of tap");
    refused(with([](NetConfig& c) {
                c.mac = {};
                c.tap = "a";
            }),
            Code::invalid_argument, "mac");
    refused(with([](NetConfig& c) { c.socket_path = std::string(108, 's'); }),
            Code::invalid_argument, "108 bytes, at most 107");
    refused(with([&](NetConfig& c) { c.socket_path = directory + "/none"; }), Code::not_found,
            "none");
    refused(with([&](NetConfig& c) { c.socket_path = path; }), Code::unavailable,
            "nobody listens there");
    refused(with([&](NetConfig& c) { c.socket_path = directory; }), Code::unavailable, directory);
    refused(with([](NetConfig& c) { c.tap = std::string(16, 't'); }), Code::invalid_argument,
            "16 bytes, at most 15");
    refused(with([](NetConfig& c) { c.tap = "spore-none"; }), Code::not_found, "spore-none");
    refused(with([](NetConfig& c) { c.tap_fd = UniqueFd(::open("/dev/null", O_RDWR)); }),
            Code::invalid_argument, "not attached to a tap");
    refused(with([](NetConfig& c) { c.socket_fd = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM, 0)); }),
            Code::invalid_argument, "not a stream socket");

    ASSERT_EQ(::listen(listener.get(), 1), 0);
    auto device =
        VirtioNet::create(with([&](NetConfig& c) { c.socket_path = path; }), memory, *loop);
    EXPECT_TRUE(device.has_value());
}

TEST(MacAddress, IsParsedStrictly) {
    auto mac = parse_mac("02:00:5e:FF:0a:01");
    ASSERT_TRUE(mac.has_value());
    EXPECT_EQ(*mac, (MacAddress{0x02, 0, 0x5e, 0xff, 0x0a, 0x01}));
    for (const char* text : {"", "02:00:5e:ff:0a", "02:00:5e:ff:0a:0", "02-00-5e-ff-0a-01",
                             "02:00:5e:ff:0a:01:", "02:00:5e:ff:0a:0g", "+2:00:5e:ff:0a:01",
                             "03:00:5e:ff:0a:01", " 2:00:5e:ff:0a:01"})
        EXPECT_FALSE(parse_mac(text).has_value()) << text;
}

TEST(MacAddress, RandomOnesAreLocalStations) {
    auto one = random_mac();
    auto other = random_mac();
    ASSERT_TRUE(one && other);
    EXPECT_EQ((*one)[0] & 3, 2);
    EXPECT_NE(*one, *other);
}

}  // namespace
}  // namespace spore
