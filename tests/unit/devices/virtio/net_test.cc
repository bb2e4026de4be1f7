// The network device on a socket: nearly all that it does, and its peer in this same thread.
#include "devices/virtio/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/un.h>

#include <filesystem>

#include "tests/unit/support/net_guest.h"

namespace spore {
namespace {

using test::feature_bit;
using test::is_intact;
using test::kPatience;
using test::NetGuest;
using test::number_of;
using test::numbered_frame;

constexpr uint64_t kMergeable = feature_bit(kNetMergeableBuffers);

std::string framed(std::string_view frame) {
    uint32_t length = htonl(static_cast<uint32_t>(frame.size()));
    return std::string(reinterpret_cast<const char*>(&length), 4) + std::string(frame);
}

class NetSocketTest : public testing::Test {
  protected:
    void SetUp() override {
        auto made = EventLoop::create();
        if (!made)
            GTEST_SKIP() << made.error().message;
        loop = std::move(*made);
    }
    void TearDown() override {
        if (guest)
            quiesce();
        guest.reset();
        if (loop)
            loop->drain();
    }

    UniqueFd make_pair() {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        peer = UniqueFd(ends[1]);
        EXPECT_EQ(::fcntl(peer.get(), F_SETFL, O_NONBLOCK), 0);
        return UniqueFd(ends[0]);
    }
    std::unique_ptr<VirtioNet> make_device() {
        NetConfig config;
        config.mac = {2, 0, 0, 0, 0, 1};
        config.socket_fd = make_pair();
        auto device = VirtioNet::create(std::move(config), memory, *loop);
        EXPECT_TRUE(device.has_value()) << device.error().message;
        return std::move(*device);
    }
    void start(uint64_t features = kMergeable) {
        guest = std::make_unique<NetGuest>(make_device(), memory, features);
    }
    void wait(const std::function<bool()>& done) { ASSERT_TRUE(loop->run_until(done, kPatience)); }
    void quiesce() {
        bool done = false;
        guest->device->quiesce([&] { done = true; });
        wait([&] { return done; });
    }
    void reset() {
        bool done = false;
        guest->device->reset([&] { done = true; });
        wait([&] { return done; });
    }
    // What the peer has sent so far: as much as goes.
    void peer_flush() {
        while (!peer_out.empty()) {
            ssize_t sent = ::send(peer.get(), peer_out.data(), peer_out.size(), MSG_NOSIGNAL);
            if (sent <= 0)
                return;
            peer_out.erase(0, static_cast<size_t>(sent));
        }
    }
    void peer_send(std::string_view frame) {
        peer_out += framed(frame);
        peer_flush();
    }
    // The next frame from the device, if it is there whole.
    std::optional<std::string> peer_receive(bool read = true) {
        char bytes[65536];
        ssize_t got = read ? ::recv(peer.get(), bytes, sizeof(bytes), 0) : 0;
        if (got > 0)
            peer_in.append(bytes, static_cast<size_t>(got));
        if (peer_in.size() < 4)
            return std::nullopt;
        uint32_t length = 0;
        std::memcpy(&length, peer_in.data(), 4);
        length = ntohl(length);
        if (peer_in.size() < 4 + length)
            return std::nullopt;
        std::string frame = peer_in.substr(4, length);
        peer_in.erase(0, 4 + length);
        return frame;
    }
    std::string expect_peer_receives() {
        std::optional<std::string> frame;
        EXPECT_TRUE(
            loop->run_until([&] { return (frame = peer_receive()).has_value(); }, kPatience));
        return frame.value_or("");
    }
    test::ReceivedFrame expect_guest_receives() {
        std::optional<test::ReceivedFrame> frame;
        EXPECT_TRUE(
            loop->run_until([&] { return (frame = guest->receive()).has_value(); }, kPatience));
        return frame.value_or(test::ReceivedFrame{});
    }
    const NetCounters& counters() { return guest->device->net_counters(); }

    GuestMemory memory = test::make_memory(16 * limits::kMiB);
    std::unique_ptr<EventLoop> loop;
    UniqueFd peer;
    std::string peer_out;
    std::string peer_in;
    std::unique_ptr<NetGuest> guest;
};

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
    char pattern[] = "/tmp/spore-net-XXXXXX";
    std::string directory = ::mkdtemp(pattern);
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
    std::filesystem::remove_all(directory);
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
