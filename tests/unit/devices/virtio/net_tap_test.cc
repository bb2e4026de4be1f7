// The network device on a real tap interface, in a network namespace of this process's own. A
// packet socket on the interface is the host.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "tests/unit/support/net_guest.h"

namespace spore {
namespace {

using test::is_intact;
using test::is_numbered;
using test::kMergeable;
using test::kPatience;
using test::NetGuest;
using test::number_of;
using test::numbered_frame;

constexpr uint64_t kSendOffloads =
    feature_bit(kNetCsum) | feature_bit(kNetHostTso4) | feature_bit(kNetHostTso6);
constexpr uint64_t kReceiveOffloads =
    feature_bit(kNetGuestCsum) | feature_bit(kNetGuestTso4) | feature_bit(kNetGuestTso6);

// Moves this process to a network namespace of its own, once; why not, if that cannot be.
const std::string& own_namespace() {
    static const std::string problem = [] {
        if (::access("/dev/net/tun", R_OK | W_OK) != 0)
            return "/dev/net/tun: " + std::string(std::strerror(errno));
        if (::unshare(CLONE_NEWNET) != 0)
            return "unshare(CLONE_NEWNET): " + std::string(std::strerror(errno));
        return std::string();
    }();
    return problem;
}

// A TCP segment in IPv4 in Ethernet, checksum left to be done, `payload` bytes long.
std::string tcp_frame(size_t payload) {
    std::string frame(14 + 20 + 20 + payload, 'p');
    std::memcpy(frame.data(), "\x02\x11\x11\x11\x11\x11\x02\x22\x22\x22\x22\x22\x08\x00", 14);
    uint8_t ip[20] = {0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 8, 1, 10, 9, 8, 2};
    uint16_t total = htons(static_cast<uint16_t>(frame.size() - 14));
    std::memcpy(ip + 2, &total, 2);
    uint32_t sum = 0;
    for (int index = 0; index < 20; index += 2)
        sum += static_cast<uint32_t>(ip[index] << 8 | ip[index + 1]);
    sum = (sum & 0xffff) + (sum >> 16);
    uint16_t check = htons(static_cast<uint16_t>(~sum));
    std::memcpy(ip + 10, &check, 2);
    uint8_t tcp[20] = {0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff};
    std::memcpy(frame.data() + 14, ip, 20);
    std::memcpy(frame.data() + 34, tcp, 20);
    return frame;
}

NetHeader tcp_header() {
    NetHeader header;
    header.flags = kNetNeedsCsum;
    header.gso_type = kNetGsoTcp4;
    header.header_bytes = 54;
    header.gso_size = 1000;
    header.csum_start = 34;
    header.csum_offset = 16;
    return header;
}

class NetTapTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!own_namespace().empty())
            GTEST_SKIP() << "no tap interface of our own: " << own_namespace();
        auto made = EventLoop::create();
        if (!made)
            GTEST_SKIP() << made.error().message;
        loop = std::move(*made);
        make_tap("spore0");
    }
    void TearDown() override {
        if (guest) {
            bool done = false;
            guest->device->quiesce([&] { done = true; });
            EXPECT_TRUE(loop->run_until([&] { return done; }, kPatience));
            guest.reset();
        }
        if (loop)
            loop->drain();
    }

    // A persistent interface, up. Nothing keeps it open, as after `ip tuntap add`.
    void make_tap(const char* name) {
        UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
        ifreq request = {};
        std::strcpy(request.ifr_name, name);
        request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        ASSERT_EQ(::ioctl(tap.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
        ASSERT_EQ(::ioctl(tap.get(), TUNSETPERSIST, 1), 0);
        UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        request.ifr_flags = IFF_UP | IFF_RUNNING;
        ASSERT_EQ(::ioctl(control.get(), SIOCSIFFLAGS, &request), 0) << std::strerror(errno);
        host = UniqueFd(
            ::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL)));
        int bytes = 8 << 20;
        ::setsockopt(host.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
        int on = 1;
        ASSERT_EQ(::setsockopt(host.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
        sockaddr_ll address = {};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(ETH_P_ALL);
        address.sll_ifindex = static_cast<int>(::if_nametoindex(name));
        ASSERT_EQ(::bind(host.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    }
    Result<std::unique_ptr<VirtioNet>> create(const std::string& tap = "spore0") {
        NetConfig config;
        config.mac = {2, 0, 0, 0, 0, 1};
        config.tap = tap;
        return VirtioNet::create(std::move(config), memory, *loop);
    }
    void start(uint64_t features) {
        auto device = create();
        ASSERT_TRUE(device.has_value()) << device.error().message;
        guest = std::make_unique<NetGuest>(std::move(*device), memory, features);
    }
    // The packet socket's header is of 10 bytes: ours without the number of buffers.
    bool host_send(std::string_view frame, const NetHeader& header = {}) {
        std::string packet(reinterpret_cast<const char*>(&header), 10);
        packet += frame;
        return ::send(host.get(), packet.data(), packet.size(), 0) ==
               static_cast<ssize_t>(packet.size());
    }
    std::optional<test::ReceivedFrame> host_receive() {
        static char bytes[10 + 65'600];
        sockaddr_ll from = {};
        socklen_t size = sizeof(from);
        for (;;) {
            ssize_t got = ::recvfrom(host.get(), bytes, sizeof(bytes), 0,
                                     reinterpret_cast<sockaddr*>(&from), &size);
            if (got < 10)
                return std::nullopt;
            if (from.sll_pkttype == PACKET_OUTGOING)
                continue;  // its own, and the kernel's
            test::ReceivedFrame frame;
            std::memcpy(static_cast<void*>(&frame.header), bytes, 10);
            frame.bytes.assign(bytes + 10, static_cast<size_t>(got) - 10);
            return frame;
        }
    }
    test::ReceivedFrame expect_host_receives() {
        std::optional<test::ReceivedFrame> frame;
        EXPECT_TRUE(
            loop->run_until([&] { return (frame = host_receive()).has_value(); }, kPatience));
        return frame.value_or(test::ReceivedFrame{});
    }
    // Frames of type `type` only: the kernel itself sends some on a new interface.
    test::ReceivedFrame expect_guest_receives(std::string_view type = "\x88\xb5") {
        std::optional<test::ReceivedFrame> frame;
        EXPECT_TRUE(loop->run_until(
            [&] {
                while ((frame = guest->receive())) {
                    if (frame->bytes.substr(12, 2) == type)
                        return true;
                }
                return false;
            },
            kPatience));
        return frame.value_or(test::ReceivedFrame{});
    }

    GuestMemory memory = test::make_memory(16 * limits::kMiB);
    std::unique_ptr<EventLoop> loop;
    UniqueFd host;
    std::unique_ptr<NetGuest> guest;
};

TEST_F(NetTapTest, OffersOffloadsUnlessToldNotTo) {
    auto device = create();
    ASSERT_TRUE(device.has_value()) << device.error().message;
    EXPECT_TRUE((*device)->offloads());
    EXPECT_EQ((*device)->offered_features() & (kSendOffloads | kReceiveOffloads),
              kSendOffloads | kReceiveOffloads);
    device->reset();
    NetConfig config;
    config.mac = {2, 0, 0, 0, 0, 1};
    config.tap = "spore0";
    config.offloads = false;
    device = VirtioNet::create(std::move(config), memory, *loop);
    ASSERT_TRUE(device.has_value()) << device.error().message;
    EXPECT_EQ((*device)->offered_features() & (kSendOffloads | kReceiveOffloads), 0u);
}

TEST_F(NetTapTest, CarriesAHundredThousandFramesEachWay) {
    start(kMergeable | feature_bit(kFeatureEventIndex));
    guest->add_buffers(128, 600);
    constexpr uint32_t kFrames = 100'000;
    constexpr uint32_t kWindow = 256;  // less than the interface's queue: that one drops
    auto size_of = [](uint32_t number) { return 60 + number * 7919u % 1455; };
    uint32_t host_sent = 0, host_received = 0, guest_sent = 0, guest_received = 0;
    bool intact = true;
    bool done = loop->run_until(
        [&] {
            while (host_sent < kFrames && host_sent - guest_received < kWindow &&
                   host_send(numbered_frame(host_sent, size_of(host_sent))))
                host_sent++;
            while (auto frame = host_receive())
                intact &= is_intact(frame->bytes) && number_of(frame->bytes) == host_received++;
            while (auto frame = guest->receive()) {
                if (is_numbered(frame->bytes))
                    intact &=
                        is_intact(frame->bytes) && number_of(frame->bytes) == guest_received++;
            }
            guest->reclaim();
            for (; guest_sent < kFrames && guest->can_send(); guest_sent++)
                guest->send(numbered_frame(guest_sent, size_of(guest_sent)));
            guest->device->kick();
            return !intact || (host_received == kFrames && guest_received == kFrames);
        },
        kPatience);
    EXPECT_TRUE(done);
    EXPECT_TRUE(intact);
    EXPECT_EQ(host_received, kFrames);
    EXPECT_EQ(guest_received, kFrames);
    EXPECT_EQ(guest->device->net_counters().tx_frames, kFrames);
    EXPECT_EQ(guest->device->net_counters().tx_dropped, 0u);
    EXPECT_EQ(guest->device->net_counters().rx_dropped, 0u);
    EXPECT_EQ(guest->line.failures, 0u);
}

TEST_F(NetTapTest, HoldsFramesWhileThereAreNoBuffers) {
    start(kMergeable);
    for (uint32_t number = 0; number < 200; number++)
        ASSERT_TRUE(host_send(numbered_frame(number, 1000)));
    loop->run_until([] { return false; }, std::chrono::milliseconds(20));
    EXPECT_EQ(guest->rx.used_index(), 0);
    EXPECT_EQ(guest->rx.used_flags(), 0) << "a kick is wanted now";
    guest->add_buffers(64, 1526);
    guest->device->kick();
    for (uint32_t number = 0; number < 200; number++) {
        EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(number, 1000));
        guest->device->kick();
    }
}

TEST_F(NetTapTest, HandsALargeSegmentToTheHostUncut) {
    start(kMergeable | kSendOffloads);
    std::string frame = tcp_frame(40'000);
    guest->send(frame, tcp_header());
    guest->device->kick();
    auto received = expect_host_receives();
    EXPECT_EQ(received.bytes, frame);
    EXPECT_EQ(received.header.gso_type, kNetGsoTcp4);
    EXPECT_EQ(received.header.gso_size, 1000);
    EXPECT_EQ(received.header.flags & kNetNeedsCsum, kNetNeedsCsum);
}

TEST_F(NetTapTest, HandsALargeSegmentToTheGuestUncutIfItTakesThat) {
    start(kMergeable | kReceiveOffloads);
    guest->add_buffers(64, 1526);
    std::string frame = tcp_frame(40'000);
    ASSERT_TRUE(host_send(frame, tcp_header())) << std::strerror(errno);
    auto received = expect_guest_receives(std::string_view("\x08\x00", 2));
    EXPECT_EQ(received.bytes, frame);
    EXPECT_EQ(received.header.gso_type, kNetGsoTcp4);
    EXPECT_EQ(received.header.gso_size, 1000);
    EXPECT_EQ(received.header.flags & kNetNeedsCsum, kNetNeedsCsum);
    EXPECT_EQ(received.header.buffers, (12 + frame.size() + 1525) / 1526);
}

TEST_F(NetTapTest, CutsALargeSegmentForAGuestWithoutOffloads) {
    start(kMergeable);
    guest->add_buffers(64, 1526);
    ASSERT_TRUE(host_send(tcp_frame(10'000), tcp_header()));
    for (int segment = 0; segment < 10; segment++) {
        auto received = expect_guest_receives(std::string_view("\x08\x00", 2));
        EXPECT_EQ(received.bytes.size(), 1054u);
        EXPECT_EQ(received.header.flags, 0) << "checksums are the host's to do";
        EXPECT_EQ(received.header.gso_type, kNetGsoNone);
    }
}

TEST_F(NetTapTest, RefusesHeadersThatLie) {
    start(kMergeable | kSendOffloads);
    std::string frame = tcp_frame(2'000);
    auto with = [](auto change) {
        NetHeader header = tcp_header();
        change(header);
        return header;
    };
    guest->send(frame, with([](NetHeader& h) {
                    h.csum_start = 0xffff;
                    h.csum_offset = 0xffff;
                }));
    guest->send(frame, with([&](NetHeader& h) {
                    h.csum_start = static_cast<uint16_t>(frame.size() - 1);
                    h.csum_offset = 0;
                }));
    guest->send(frame, with([](NetHeader& h) { h.gso_size = 0; }));
    guest->send(frame, with([](NetHeader& h) { h.flags = 0; }));
    guest->send(frame, with([](NetHeader& h) { h.gso_type = 3; }));     // UDP: not offered
    guest->send(frame, with([](NetHeader& h) { h.gso_type = 0x81; }));  // ECN: not offered
    guest->send(frame, with([&](NetHeader& h) { h.header_bytes = 60'000; }));
    guest->send(frame, tcp_header());
    guest->device->kick();
    EXPECT_EQ(expect_host_receives().bytes, frame);
    EXPECT_EQ(guest->device->net_counters().tx_dropped, 7u);
    EXPECT_EQ(guest->device->counters().guest_errors, 7u);
}

TEST_F(NetTapTest, PausesWithAReadWaitingAndGoesOn) {
    start(kMergeable);
    guest->add_buffers(32, 1526);
    bool done = false;
    guest->device->quiesce([&] { done = true; });
    ASSERT_TRUE(loop->run_until([&] { return done; }, kPatience));
    EXPECT_EQ(loop->in_flight(), 0u);
    ASSERT_TRUE(host_send(numbered_frame(1, 60)));
    guest->device->resume();
    EXPECT_EQ(expect_guest_receives().bytes, numbered_frame(1, 60));
}

TEST_F(NetTapTest, TellsBusyAndForeignInterfaces) {
    auto first = create();
    ASSERT_TRUE(first.has_value());
    auto second = create();
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().code, Code::unavailable);
    EXPECT_EQ(second.error().message, "net0: tap 'spore0': busy: another program has it open");
    auto loopback = create("lo");
    ASSERT_FALSE(loopback.has_value());
    EXPECT_EQ(loopback.error().code, Code::invalid_argument) << loopback.error().message;
}

TEST_F(NetTapTest, TakesAnOpenDescriptorAndChecksIt) {
    auto open = [](short flags) {
        UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
        ifreq request = {};
        std::strcpy(request.ifr_name, "spore1");
        request.ifr_flags = flags;
        EXPECT_EQ(::ioctl(tap.get(), TUNSETIFF, &request), 0);
        return tap;
    };
    auto create_with = [&](UniqueFd tap) {
        NetConfig config;
        config.mac = {2, 0, 0, 0, 0, 1};
        config.tap_fd = std::move(tap);
        return VirtioNet::create(std::move(config), memory, *loop);
    };
    EXPECT_TRUE(create_with(open(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)).has_value());
    for (int flags : {IFF_TAP | IFF_NO_PI, IFF_TUN | IFF_NO_PI | IFF_VNET_HDR}) {
        auto device = create_with(open(static_cast<short>(flags)));
        ASSERT_FALSE(device.has_value());
        EXPECT_EQ(device.error().code, Code::invalid_argument);
    }
    EXPECT_FALSE(create_with(UniqueFd(::open("/dev/net/tun", O_RDWR))).has_value());
}

TEST_F(NetTapTest, TakesTheLinkDownWhenTheInterfaceIsDeleted) {
    if (::system("command -v ip >/dev/null") != 0)
        GTEST_SKIP() << "ip (Debian: iproute2) is not installed";
    start(kMergeable);
    ASSERT_EQ(::system("ip link del spore0"), 0);
    ASSERT_TRUE(loop->run_until([&] { return guest->line.config > 0; }, kPatience));
    EXPECT_FALSE(guest->device->link_up());
    EXPECT_EQ(guest->device->counters().host_errors, 1u);
    guest->send(numbered_frame(1, 60));
    guest->device->kick();
    EXPECT_TRUE(loop->run_until([&] { return guest->tx.used_index() == 1; }, kPatience));
    EXPECT_EQ(guest->device->net_counters().tx_dropped, 1u);
}

}  // namespace
}  // namespace spore
