// Frames that no guest's kernel sends, and more of them than anybody should.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <fstream>

#include "hypervisor/network/namespace.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"
#include "tests/network/world.h"

namespace spore {
namespace {

using Frame = std::vector<uint8_t>;

constexpr uint8_t kGuest[] = {0x02, 0x53, 0x50, 0x52, 0, 2};
constexpr uint8_t kGateway[] = {0x02, 0x53, 0x50, 0x52, 0, 1};
constexpr uint8_t kForeign[] = {0x02, 0x53, 0x50, 0x52, 0, 3};
constexpr uint8_t kEverybody[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr uint32_t kGuestIp = 0xc6120002, kGatewayIp = 0xc6120001;

void put16(Frame& frame, uint32_t value) {
    frame.push_back(static_cast<uint8_t>(value >> 8));
    frame.push_back(static_cast<uint8_t>(value));
}

void put32(Frame& frame, uint32_t value) {
    put16(frame, value >> 16);
    put16(frame, value);
}

Frame ethernet(const uint8_t (&to)[6], const uint8_t (&from)[6], uint16_t type) {
    Frame frame(to, to + 6);
    frame.insert(frame.end(), from, from + 6);
    put16(frame, type);
    return frame;
}

// A UDP packet without a checksum, which UDP allows; IP's own is right.
void put_udp(Frame& frame, uint32_t from, uint32_t to, uint16_t sport, uint16_t dport,
             const std::string& text) {
    size_t start = frame.size();
    put32(frame, 0x45000000 | static_cast<uint32_t>(28 + text.size()));
    put32(frame, 0);
    put32(frame, 0x40110000);
    put32(frame, from);
    put32(frame, to);
    uint32_t sum = 0;
    for (size_t at = start; at < start + 20; at += 2)
        sum += static_cast<uint32_t>(frame[at] << 8 | frame[at + 1]);
    sum = ~((sum & 0xffff) + (sum >> 16));
    frame[start + 10] = static_cast<uint8_t>(sum >> 8);
    frame[start + 11] = static_cast<uint8_t>(sum);
    put16(frame, sport);
    put16(frame, dport);
    put16(frame, static_cast<uint32_t>(8 + text.size()));
    put16(frame, 0);
    frame.insert(frame.end(), text.begin(), text.end());
}

uint32_t ip_of(const std::string& text) {
    return *parse_ipv4("address", text);
}

Frame udp(const uint8_t (&mac)[6], uint32_t from, const std::string& text,
          const std::string& to = kPublic) {
    Frame frame = ethernet(kGateway, mac, 0x0800);
    put_udp(frame, from, ip_of(to), 4000, kPort, text);
    return frame;
}

Frame arp(const uint8_t (&mac)[6], uint16_t operation, const uint8_t (&sender)[6],
          uint32_t sender_ip, uint32_t target_ip) {
    Frame frame = ethernet(kEverybody, mac, 0x0806);
    put32(frame, 0x00010800);
    put32(frame, 0x06040000 | operation);
    frame.insert(frame.end(), sender, sender + 6);
    put32(frame, sender_ip);
    frame.insert(frame.end(), 6, 0);
    put32(frame, target_ip);
    return frame;
}

bool is_arp(const std::string& frame) {
    return frame.size() >= 14 && frame[12] == 0x08 && frame[13] == 0x06;
}

TEST(Attack, NoFrameUnderAnothersAddress) {
    Guest guest(policy("open"));
    UniqueFd server = receive_in(world());
    guest.send_frame(udp(kForeign, kGuestIp, "spoofed MAC"));
    guest.send_frame(udp(kGateway, kGuestIp, "the gateway's MAC"));
    for (const char* from : {"198.18.0.3", "198.18.0.1", "0.0.0.0", "10.7.0.9", kHostOutside,
                             kPublic, "127.0.0.1", "255.255.255.255", "224.0.0.1"})
        guest.send_frame(udp(kGuest, ip_of(from), std::string("spoofed ") + from));
    guest.send_frame(udp(kGuest, kGuestIp, "own"));
    EXPECT_EQ(read_from(server.get()), "own");
    EXPECT_EQ(read_from(server.get(), 0), "");
}

TEST(Attack, NoTagHidesAFrame) {
    Guest guest(policy("open"));
    UniqueFd server = receive_in(world());
    for (uint16_t tag : {uint16_t{0x8100}, uint16_t{0x88a8}}) {
        Frame frame = ethernet(kGateway, kGuest, tag);
        put16(frame, 0);  // priority tagged: VLAN 0 is stripped by the kernel
        put16(frame, 0x0800);
        put_udp(frame, ip_of("198.18.0.3"), ip_of(kPublic), 4000, kPort, "tagged and spoofed");
        guest.send_frame(frame);
    }
    guest.send_frame(udp(kGuest, kGuestIp, "own"));
    EXPECT_EQ(read_from(server.get()), "own");
    EXPECT_EQ(read_from(server.get(), 0), "");
}

TEST(Attack, NoArpForAnother) {
    Guest guest(policy("open"));
    (void)guest.frames();
    guest.send_frame(arp(kForeign, 1, kForeign, ip_of("198.18.0.3"), kGatewayIp));
    guest.send_frame(arp(kGuest, 1, kForeign, kGuestIp, kGatewayIp));
    guest.send_frame(arp(kGuest, 1, kGuest, ip_of("198.18.0.3"), kGatewayIp));
    guest.send_frame(arp(kGuest, 1, kGuest, ip_of("0.0.0.0"), kGatewayIp));
    guest.send_frame(arp(kGuest, 2, kForeign, kGuestIp, kGuestIp));
    guest.send_frame(arp(kGuest, 1, kGuest, kGuestIp, ip_of("192.0.2.1")));
    guest.send_frame(arp(kGuest, 1, kGuest, kGuestIp, kGatewayIp));
    std::vector<std::string> answers;
    ASSERT_TRUE(eventually([&] {
        for (std::string& frame : guest.frames())
            if (is_arp(frame))
                answers.push_back(std::move(frame));
        return !answers.empty();
    }));
    ASSERT_EQ(answers.size(), 1u) << "the last of them is the only one of its own";
    EXPECT_EQ(answers[0].substr(28, 4), std::string("\xc6\x12\0\x01", 4));  // the gateway is ...
    EXPECT_EQ(answers[0].substr(38, 4), std::string("\xc6\x12\0\x02", 4));  // told to the guest
    // Nobody has taken the guest's place.
    UniqueFd server = listen_in(world());
    EXPECT_EQ(guest.connect(kPublic), 0);
}

TEST(Attack, NoDhcpNoIpv6) {
    Guest guest(policy("open"));
    UniqueFd server = receive_in(world());
    UniqueFd dhcp = *in_namespace(guest.sandbox_namespace().get(),
                                  []() -> Result<UniqueFd> { return receive_in(-1, 67); });
    Frame discover = ethernet(kEverybody, kGuest, 0x0800);
    put_udp(discover, 0, 0xffffffff, 68, 67, "discover");
    guest.send_frame(discover);
    Frame inform = ethernet(kGateway, kGuest, 0x0800);
    put_udp(inform, kGuestIp, kGatewayIp, 68, 67, "inform");
    guest.send_frame(inform);
    // A router advertisement to all nodes, from a link-local address.
    Frame advertisement = ethernet({0x33, 0x33, 0, 0, 0, 1}, kGuest, 0x86dd);
    for (uint32_t word : {0x60000000u, 0x00103affu, 0xfe800000u, 0u, 0u, 2u, 0xff020000u, 0u, 0u,
                          1u, 0x86000000u, 0x40000708u, 0u, 0u})
        put32(advertisement, word);
    guest.send_frame(advertisement);
    guest.send_frame(udp(kGuest, kGuestIp, "own"));
    EXPECT_EQ(read_from(server.get()), "own");
    EXPECT_EQ(read_from(dhcp.get(), 0), "");
    auto off = in_namespace(guest.sandbox_namespace().get(),
                            [] { return sysctl("ipv6/conf/tap0/disable_ipv6"); });
    EXPECT_EQ(off.value_or("1"), "1");  // a kernel without IPv6 has no such file
    EXPECT_TRUE(guest.report().intact);
}

// From fe80::2 to `to`; `next` is the payload's protocol.
Frame ipv6(const uint8_t (&mac)[6], uint8_t next, const std::array<uint32_t, 4>& to,
           const Frame& payload) {
    Frame frame = ethernet(mac, kGuest, 0x86dd);
    put32(frame, 0x60000000);
    put32(frame, static_cast<uint32_t>(payload.size()) << 16 | uint32_t{next} << 8 | 255);
    for (uint32_t word : {0xfe800000u, 0u, 0u, 2u})
        put32(frame, word);
    for (uint32_t word : to)
        put32(frame, word);
    frame.insert(frame.end(), payload.begin(), payload.end());
    return frame;
}

std::vector<Frame> ipv6_attacks() {
    constexpr uint8_t kAllNodes[] = {0x33, 0x33, 0, 0, 0, 1};
    const std::array<uint32_t, 4> all = {0xff020000, 0, 0, 1}, router = {0xff020000, 0, 0, 2},
                                  near = {0xfe800000, 0, 0, 1}, far = {0x20010db8, 0, 0, 1};
    auto icmp = [](uint8_t type) { return Frame{type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}; };
    // Solicitations and advertisements of routers and neighbours, a redirect, MLD, an echo.
    std::vector<Frame> frames;
    for (uint8_t type : std::initializer_list<uint8_t>{133, 134, 135, 136, 137, 143, 128})
        for (const auto& to : {all, router, near, far}) {
            frames.push_back(ipv6(kAllNodes, 58, to, icmp(type)));
            frames.push_back(ipv6(kGateway, 58, to, icmp(type)));
        }
    for (uint8_t protocol :
         std::initializer_list<uint8_t>{6, 17, 0, 43, 44, 59, 4, 41})  // also IPv4 and IPv6 within
        frames.push_back(ipv6(kGateway, protocol, far, Frame(40, 0)));
    return frames;
}

// A socket that gets every IPv6 frame that has come in by `link` in `ns`, past its rules.
UniqueFd watch_ipv6(int ns, const std::string& link) {
    return *in_namespace(ns, [&]() -> Result<UniqueFd> {
        UniqueFd socket(
            ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));  // silent until it is bound
        sockaddr_ll here = {};
        here.sll_family = AF_PACKET;
        here.sll_protocol = htons(0x86dd);
        here.sll_ifindex = static_cast<int>(::if_nametoindex(link.c_str()));
        if (!socket || here.sll_ifindex == 0 ||
            ::bind(socket.get(), reinterpret_cast<sockaddr*>(&here), sizeof(here)) != 0)
            return fail_errno("packet socket");
        return socket;
    });
}

// In the namespace `ns`, of all interfaces or of one.
std::string ipv6_addresses(int ns, const std::string& of = "") {
    return *in_namespace(ns, [&]() -> Result<std::string> {
        std::ifstream file("/proc/thread-self/net/if_inet6");
        std::string found;
        for (std::string line; std::getline(file, line);)
            if (of.empty() || line.ends_with(" " + of))
                found += line + "\n";
        return found;
    });
}

TEST(Attack, Ipv6IsOffInEveryMode) {
    for (const char* mode : {"none", "egress", "open"}) {
        Guest guest(policy(mode));
        UniqueFd within = watch_ipv6(guest.sandbox_namespace().get(), "tap0");
        // By passt there is none.
        UniqueFd host;
        if (!by_passt())
            host = watch_ipv6(own_namespace()->get(), guest.report().link);
        (void)guest.frames();
        for (const Frame& frame : ipv6_attacks())
            guest.send_frame(frame);
        // All before it has been dealt with when the gateway answers.
        guest.send_frame(arp(kGuest, 1, kGuest, kGuestIp, kGatewayIp));
        bool answered = false;
        std::string came;
        ASSERT_TRUE(eventually([&] {
            for (const std::string& frame : guest.frames()) {
                answered |= is_arp(frame);
                if (frame.size() >= 14 && frame.substr(12, 2) == "\x86\xdd")
                    came = "an IPv6 frame";
            }
            return answered;
        })) << mode;
        EXPECT_EQ(came, "") << mode << ": came to the guest";
        EXPECT_EQ(read_from(within.get(), 0), "") << mode << ": passed the tap";
        EXPECT_EQ(read_from(host.get(), 0), "") << mode << ": came to the host";
        EXPECT_EQ(ipv6_addresses(guest.sandbox_namespace().get()), "") << mode;
        EXPECT_EQ(ipv6_addresses(own_namespace()->get(), guest.report().link), "") << mode;
        // That this watch sees what passes: without the rules one does.
        ASSERT_TRUE(in_namespace(guest.sandbox_namespace().get(),
                                 [] { return run_nft("delete table netdev spore"); }));
        guest.send_frame(ipv6_attacks().front());
        EXPECT_NE(read_from(within.get()), "") << mode;
    }
}

TEST(Attack, ConnectionsAreBounded) {
    NetworkBounds bounds;
    bounds.connections = 8;
    Guest guest(policy("egress"), bounds);
    UniqueFd server = listen_in(world());
    std::vector<UniqueFd> open;
    for (int number = 0; number < 8; number++) {
        open.push_back(make_socket(guest.ns(), SOCK_STREAM));
        ASSERT_EQ(connect_to(open.back().get(), kPublic), 0) << number;
    }
    EXPECT_EQ(guest.connect(kPublic, kPort, kMomentMs), ETIMEDOUT);
    // One neighbour's bound is not another's.
    Guest other(policy("egress"), bounds);
    EXPECT_EQ(other.connect(kPublic), 0);
}

TEST(Attack, ConnectionsBegunInASecondAreBounded) {
    NetworkBounds bounds;
    bounds.connections_per_second = 1;
    bounds.connections_burst = 20;
    Guest guest(policy("egress"), bounds);
    UniqueFd server = receive_in(world());
    auto begun = std::chrono::steady_clock::now();
    for (uint16_t port = 901; port <= 1100; port++) {
        Frame frame = ethernet(kGateway, kGuest, 0x0800);
        put_udp(frame, kGuestIp, ip_of(kPublic), port, kPort, "flood");
        guest.send_frame(frame);
    }
    size_t came = 0;
    while (!read_from(server.get(), 200).empty())
        came++;
    auto took = std::chrono::steady_clock::now() - begun;
    EXPECT_GE(came, 20u);
    EXPECT_LE(came,
              21u + static_cast<size_t>(std::chrono::ceil<std::chrono::seconds>(took).count()));
}

TEST(Attack, FramesInASecondAreBounded) {
    NetworkBounds bounds;
    bounds.frames_per_second = 50;
    Guest guest(policy("egress"), bounds);
    UniqueFd server = receive_in(world());
    auto begun = std::chrono::steady_clock::now();
    for (int number = 0; number < 1000; number++)
        guest.send_frame(udp(kGuest, kGuestIp, "flood"));
    auto took = std::chrono::steady_clock::now() - begun;
    size_t came = 0;
    while (!read_from(server.get(), 200).empty())
        came++;
    auto seconds = std::chrono::duration<double>(took).count();
    EXPECT_GE(came, 20u);
    EXPECT_LE(came, 55u + static_cast<size_t>(50 * seconds));
}

}  // namespace
}  // namespace spore
