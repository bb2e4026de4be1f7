// What a sandbox can reach, and who can reach it.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <sys/socket.h>

#include "hypervisor/network/namespace.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"
#include "tests/network/world.h"

namespace spore {
namespace {

using ::testing::AnyOf;

// What a refusal of ours looks like in the guest: at once, not after a minute.
auto Refused() {
    return AnyOf(EHOSTUNREACH, ECONNREFUSED, ENETUNREACH);
}

std::string link_of(const Guest& guest) {
    return guest.report().address;  // the sandbox's end; the host's is the one before
}

std::string host_end_of(const Guest& guest) {
    std::string address = link_of(guest);
    return ipv4_text(*parse_ipv4("address", address) - 1);
}

TEST(Reach, EgressGoesToPublicAddressesFromTheHostsOwn) {
    Guest guest(policy("egress"));
    UniqueFd server = listen_in(world());
    UniqueFd client = make_socket(guest.ns(), SOCK_STREAM);
    ASSERT_EQ(connect_to(client.get(), kPublic), 0);
    UniqueFd peer = accept_from(server.get());
    ASSERT_TRUE(peer);
    sockaddr_in from = {};
    socklen_t size = sizeof(from);
    ASSERT_EQ(::getpeername(peer.get(), reinterpret_cast<sockaddr*>(&from), &size), 0);
    EXPECT_EQ(ipv4_text(ntohl(from.sin_addr.s_addr)), kHostOutside);
    ASSERT_EQ(::send(client.get(), "question", 8, 0), 8);
    EXPECT_EQ(read_from(peer.get()), "question");
    ASSERT_EQ(::send(peer.get(), "answer", 6, 0), 6);
    EXPECT_EQ(read_from(client.get()), "answer");
}

TEST(Reach, NoneReachesNothing) {
    Guest guest(policy("none"));
    UniqueFd server = listen_in(world());
    EXPECT_FALSE(guest.report().open);
    EXPECT_THAT(guest.connect(kPublic), Refused());
    EXPECT_THAT(guest.connect(kNameserver, 53), Refused());
    EXPECT_FALSE(accept_from(server.get(), 0));
}

TEST(Reach, PrivateAddressesOnlyIfAllowed) {
    UniqueFd server = listen_in(world());
    UniqueFd other = listen_in(world(), 8081);
    {
        Guest guest(policy("egress"));
        EXPECT_THAT(guest.connect(kPrivate), Refused());
        EXPECT_EQ(guest.connect(kPublic), 0);
    }
    {
        Guest guest(policy("egress", {"10.7.0.0/16:8080"}));
        EXPECT_EQ(guest.connect(kPrivate), 0);
        EXPECT_THAT(guest.connect(kPrivate, 8081), Refused());
        EXPECT_THAT(guest.connect(kPublic), Refused());
    }
    {
        // A range that has private ones in it among others does not mean them.
        Guest guest(policy("egress", {"0.0.0.0/0"}));
        EXPECT_THAT(guest.connect(kPrivate), Refused());
        EXPECT_EQ(guest.connect(kPublic), 0);
    }
    {
        Guest guest(policy("open"));
        EXPECT_EQ(guest.connect(kPrivate), 0);
        EXPECT_EQ(guest.connect(kPublic), 0);
    }
}

TEST(Reach, DenyWinsOverAllow) {
    UniqueFd server = listen_in(world());
    UniqueFd other = listen_in(world(), 8081);
    Guest guest(policy("egress", {"203.0.113.0/24"}, {"203.0.113.10:8081"}));
    EXPECT_EQ(guest.connect(kPublic), 0);
    EXPECT_THAT(guest.connect(kPublic, 8081), Refused());
    Guest open(policy("open", {}, {"10.0.0.0/8"}));
    EXPECT_THAT(open.connect(kPrivate), Refused());
}

TEST(Reach, MetadataAndLinkLocalNever) {
    UniqueFd server = listen_in(world());
    for (const char* mode : {"egress", "open"}) {
        Guest guest(policy(mode));
        EXPECT_THAT(guest.connect(kMetadata), Refused()) << mode;
        EXPECT_THAT(guest.connect("169.254.1.1"), Refused()) << mode;
        EXPECT_THAT(guest.connect("168.63.129.16"), Refused()) << mode;
        EXPECT_THAT(guest.connect("100.100.100.200"), Refused()) << mode;
    }
    EXPECT_FALSE(accept_from(server.get(), 0));
}

TEST(Reach, NoServiceOfTheHost) {
    UniqueFd service = listen_in(-1);
    Guest guest(policy("open"));
    EXPECT_NE(guest.connect(kHostOutside), 0);
    EXPECT_NE(guest.connect(host_end_of(guest)), 0);
    EXPECT_NE(guest.connect("198.18.0.1"), 0);
    EXPECT_NE(guest.connect(link_of(guest)), 0);
    EXPECT_FALSE(accept_from(service.get(), 0));
}

// What the namespace's rules let through by mistake, the host's stop.
TEST(Reach, TheHostsRulesHoldWithoutTheSandboxs) {
    UniqueFd service = receive_in(-1);
    UniqueFd outside = receive_in(world());
    Guest guest(policy("open"));
    Guest other(policy("open"));
    UniqueFd neighbour = receive_in(other.ns());
    for (Guest* each : {&guest, &other})
        ASSERT_TRUE(in_namespace(each->sandbox_namespace().get(), [] {
            return run_nft(
                "flush chain inet spore forward\n"
                "add rule inet spore forward accept\n"
                "flush chain inet spore input\n"
                "add rule inet spore input accept\n");
        }));
    UniqueFd socket = make_socket(guest.ns(), SOCK_DGRAM);
    for (const std::string& address : {std::string(kHostOutside), host_end_of(guest),
                                       host_end_of(other), link_of(other), std::string(kMetadata)})
        send_to(socket.get(), "in", address);
    send_to(socket.get(), "end", kPublic);
    EXPECT_EQ(read_from(outside.get()), "end");
    EXPECT_EQ(read_from(service.get(), 0), "");
    EXPECT_EQ(read_from(neighbour.get(), 0), "");
}

TEST(Reach, NoOtherSandbox) {
    Guest one(policy("open"));
    Guest other(policy("open"));
    UniqueFd server = listen_in(other.ns());
    EXPECT_NE(link_of(one), link_of(other));
    EXPECT_THAT(one.connect(link_of(other)), Refused());
    EXPECT_THAT(one.connect(host_end_of(other)), Refused());
    EXPECT_FALSE(accept_from(server.get(), 0));
}

TEST(Reach, NobodyReachesTheGuest) {
    Guest guest(policy("open"));
    UniqueFd server = listen_in(guest.ns());
    UniqueFd receiver = receive_in(guest.ns());
    // By the sandbox's address on its link, from the host and from the world, which has a route.
    UniqueFd from_host = make_socket(-1, SOCK_STREAM);
    EXPECT_EQ(connect_to(from_host.get(), link_of(guest), kPort, kMomentMs), ETIMEDOUT);
    UniqueFd from_world = make_socket(world(), SOCK_STREAM);
    EXPECT_EQ(connect_to(from_world.get(), link_of(guest), kPort, kMomentMs), ETIMEDOUT);
    EXPECT_FALSE(accept_from(server.get(), 0));
}

TEST(Reach, DnsOfOursIsTheHostsNameserver) {
    UniqueFd nameserver = receive_in(world(), 53, kNameserver);
    Guest guest(policy("egress"));
    UniqueFd socket = make_socket(guest.ns(), SOCK_DGRAM);
    ASSERT_EQ(connect_to(socket.get(), "198.18.0.1", 53), 0);
    ASSERT_EQ(::send(socket.get(), "who", 3, 0), 3);
    char question[16];
    sockaddr_in from = {};
    socklen_t size = sizeof(from);
    ASSERT_EQ(::recvfrom(nameserver.get(), question, sizeof(question), 0,
                         reinterpret_cast<sockaddr*>(&from), &size),
              3);
    ASSERT_EQ(::sendto(nameserver.get(), "me", 2, 0, reinterpret_cast<sockaddr*>(&from), size), 2);
    EXPECT_EQ(read_from(socket.get()), "me");  // from 198.18.0.1: the socket takes no other
}

TEST(Reach, PingsGoOutAndNothingElseOfIcmp) {
    Guest guest(policy("egress"));
    UniqueFd range(::open("/proc/sys/net/ipv4/ping_group_range", O_RDONLY | O_CLOEXEC));
    if (!range)
        GTEST_SKIP() << "this kernel has no ping sockets";
    UniqueFd socket = *in_namespace(guest.ns(), []() -> Result<UniqueFd> {
        TRY(set_sysctl("ipv4/ping_group_range", "0 0"));
        UniqueFd made(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP));
        if (!made)
            return fail_errno("ping socket");
        return made;
    });
    const std::string echo("\x08\0\0\0\0\0\0\x01hello", 13);
    send_to(socket.get(), echo, kPublic, 0);
    EXPECT_THAT(read_from(socket.get()), ::testing::HasSubstr("hello"));
    send_to(socket.get(), echo, kMetadata, 0);
    EXPECT_EQ(read_from(socket.get(), 0), "");
}

}  // namespace
}  // namespace spore

int main(int argc, char** argv) {
    ::testing::InitGoogleTest(&argc, argv);
    std::string why = spore::enter_own_host();
    if (constexpr std::string_view kPasst = "--passt=";
        why.empty() && argc > 1 && std::string_view(argv[1]).starts_with(kPasst))
        why = spore::use_passt(argv[1] + kPasst.size());
    if (!why.empty()) {
        std::printf("[  SKIPPED ] %s\n", why.c_str());
        return 77;
    }
    return RUN_ALL_TESTS();
}
