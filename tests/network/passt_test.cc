// What only networks by passt have: their processes. All else is the other tests', run once more.

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <fstream>
#include <map>

#include "hypervisor/network/namespace.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"
#include "tests/network/world.h"

namespace spore {
namespace {

using ::testing::HasSubstr;

std::map<std::string, std::string> status_of(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/status");
    std::map<std::string, std::string> status;
    for (std::string line; std::getline(file, line);) {
        size_t colon = line.find(':');
        status[line.substr(0, colon)] = line.substr(std::min(colon + 2, line.size()));
    }
    return status;
}

pid_t parent_of(pid_t pid) {
    return std::atoi(status_of(pid)["PPid"].c_str());
}

bool has_ended(pid_t pid) {
    (void)::waitpid(pid, nullptr, WNOHANG);  // pasta is our child
    std::string state = status_of(pid)["State"];
    return state.empty() || state[0] == 'Z';
}

struct Processes {
    pid_t keeper, pasta;
    explicit Processes(const Guest& guest)
        : keeper(keeper_of(guest.directory())), pasta(parent_of(keeper)) {}
    bool both_have_ended() const { return has_ended(keeper) && has_ended(pasta); }
};

class Passt : public testing::Test {
  protected:
    void SetUp() override {
        if (!by_passt())
            GTEST_SKIP() << "its networks are the host's; --passt=SPORE makes them by passt";
    }
};

TEST_F(Passt, IsTold) {
    Guest guest(policy("egress"));
    NetworkReport report = guest.report();
    EXPECT_EQ(report.by, "passt");
    EXPECT_TRUE(report.open);
    EXPECT_TRUE(report.intact) << report.what_changed;
}

TEST_F(Passt, ProcessesHaveNoRightButTheirs) {
    Guest guest(policy("egress"));
    Processes processes(guest);
    auto keeper = status_of(processes.keeper);
    EXPECT_EQ(keeper["CapEff"], "0000000000001000") << "CAP_NET_ADMIN, in its own namespace";
    EXPECT_EQ(keeper["CapPrm"], "0000000000001000");
    EXPECT_EQ(keeper["NoNewPrivs"], "1");
    EXPECT_EQ(keeper["Seccomp"], "2") << "a list of system calls";
    EXPECT_THAT(keeper["Uid"], HasSubstr("12345"));
    auto pasta = status_of(processes.pasta);
    EXPECT_EQ(pasta["Seccomp"], "2");
    EXPECT_EQ(pasta["NoNewPrivs"], "1");
    EXPECT_THAT(pasta["Uid"], HasSubstr("12345"));
}

// Inside all have the same addresses, and what leaves one is a socket of the host's: there is no
// address of another, with its rules and without.
TEST_F(Passt, NoOtherSandboxWithOrWithoutRules) {
    Guest one(policy("open")), other(policy("open"));
    UniqueFd server = listen_in(other.ns());
    UniqueFd receiver = receive_in(other.ns());
    ASSERT_EQ(other.connect("198.18.0.2"), 0) << "it listens";
    ASSERT_TRUE(accept_from(server.get()));
    auto try_all = [&] {
        for (const char* address : {"198.18.0.2", "198.18.0.1", "198.19.0.2", "198.19.0.1",
                                    kHostOutside, kPublic, "255.255.255.255"}) {
            EXPECT_NE(one.connect(address, kPort, kMomentMs / 5), 0) << address;
            UniqueFd sender = make_socket(one.ns(), SOCK_DGRAM);
            send_to(sender.get(), "hello", address);
        }
        EXPECT_FALSE(accept_from(server.get(), kMomentMs));
        EXPECT_EQ(read_from(receiver.get(), kMomentMs), "");
    };
    try_all();
    ASSERT_TRUE(in_namespace(one.sandbox_namespace().get(),
                             [] { return run_nft("insert rule inet spore forward accept"); }));
    try_all();
}

TEST_F(Passt, EndsWithTheVm) {
    Guest guest(policy("egress"));
    Processes processes(guest);
    EXPECT_FALSE(processes.both_have_ended());
    guest.drop_tap();
    EXPECT_TRUE(eventually([&] { return processes.both_have_ended(); }));
    EXPECT_FALSE(guest.report().intact);
}

TEST_F(Passt, GoesWithItsNetworkWhileTheVmIsThere) {
    Guest guest(policy("egress"));
    Processes processes(guest);
    ASSERT_TRUE(remove_network(guest.directory()));
    EXPECT_FALSE(has_network(guest.directory()));
    EXPECT_TRUE(eventually([&] { return processes.both_have_ended(); }));
    EXPECT_NE(guest.connect(kPublic, kPort, kMomentMs), 0);
}

TEST_F(Passt, WhoeverIsKilledTheOtherEndsAndNothingPasses) {
    UniqueFd server = listen_in(world());
    for (auto who : {&Processes::keeper, &Processes::pasta}) {
        Guest guest(policy("egress"));
        ASSERT_EQ(guest.connect(kPublic), 0);
        Processes processes(guest);
        ASSERT_GT(processes.*who, 1) << "0 and -1 are this test's own and everybody";
        ASSERT_EQ(::kill(processes.*who, SIGKILL), 0);
        EXPECT_TRUE(eventually([&] { return processes.both_have_ended(); }));
        EXPECT_NE(guest.connect(kPublic, kPort, kMomentMs), 0);
        EXPECT_THAT(guest.report().what_changed, HasSubstr("nothing passes"));
        auto applied = guest.apply(policy("open"));
        ASSERT_FALSE(applied);
        EXPECT_THAT(applied.error().message, HasSubstr("nothing passes now"));
    }
}

TEST_F(Passt, ChangeThatFailsLeavesNothingOpen) {
    Guest guest(policy("open"));
    UniqueFd server = listen_in(world());
    ASSERT_EQ(guest.connect(kPublic), 0);
    // What was loaded cannot be written down: a directory is in the way.
    auto listing = guest.directory() / "passt" / "listing";
    std::filesystem::remove(listing);
    std::filesystem::create_directory(listing);
    auto applied = guest.apply(policy("egress", {}, {"192.0.2.0/24"}));
    std::filesystem::remove(listing);
    ASSERT_FALSE(applied);
    EXPECT_THAT(applied.error().message, HasSubstr("nothing passes now"));
    EXPECT_FALSE(guest.report().open);
    EXPECT_FALSE(guest.report().intact);
    EXPECT_NE(guest.connect(kPublic, kPort, kMomentMs), 0);
    ASSERT_TRUE(guest.apply(policy("egress")));
    EXPECT_TRUE(guest.report().intact) << guest.report().what_changed;
    EXPECT_EQ(guest.connect(kPublic), 0);
}

TEST_F(Passt, MeddlingIsNoticed) {
    Guest guest(policy("egress"));
    ASSERT_TRUE(in_namespace(guest.sandbox_namespace().get(),
                             [] { return run_nft("insert rule inet spore forward accept"); }));
    EXPECT_THAT(guest.report().what_changed, HasSubstr("changed by another"));
    ASSERT_TRUE(guest.apply(policy("open")));
    EXPECT_TRUE(guest.report().intact) << guest.report().what_changed;
}

TEST_F(Passt, AnAddressThatTheHostGetsIsToldAndThenRefused) {
    Guest guest(policy("open"));
    UniqueFd service = listen_in(-1);
    auto route = RouteSocket::open();
    ASSERT_TRUE(route);
    ASSERT_TRUE(route->add_address("out", *parse_ipv4("address", "10.9.0.1"), 32));
    EXPECT_THAT(guest.report().what_changed, HasSubstr("other addresses"));
    ASSERT_TRUE(guest.apply(policy("open")));
    EXPECT_TRUE(guest.report().intact) << guest.report().what_changed;
    EXPECT_EQ(guest.connect("10.9.0.1"), EHOSTUNREACH);
    EXPECT_FALSE(accept_from(service.get(), 0));
}

}  // namespace
}  // namespace spore
