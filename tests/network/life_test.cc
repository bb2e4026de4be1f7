// Networks made, changed while they are used, meddled with, and gone.

#include <gmock/gmock.h>
#include <net/if.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <fstream>

#include "hypervisor/network/layout.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"
#include "tests/network/world.h"

namespace spore {
namespace {

using ::testing::HasSubstr;

std::string write_and_read(int from, int to, const std::string& text, int ms = kPatienceMs) {
    if (::send(from, text.data(), text.size(), MSG_NOSIGNAL) < 0)
        return "";
    return read_from(to, ms);
}

struct OpenConnection {
    UniqueFd server = listen_in(world());
    UniqueFd client, peer;
    explicit OpenConnection(const Guest& guest) : client(make_socket(guest.ns(), SOCK_STREAM)) {
        EXPECT_EQ(connect_to(client.get(), kPublic), 0);
        peer = accept_from(server.get());
        EXPECT_EQ(write_and_read(client.get(), peer.get(), "before"), "before");
    }
};

// All interfaces of the host, and what is mounted and lies in the directory of networks.
std::string inventory() {
    std::string text;
    struct if_nameindex* list = ::if_nameindex();
    for (auto* each = list; each->if_index != 0; each++)
        text += std::string(each->if_name) + "\n";
    ::if_freenameindex(list);
    std::ifstream mounts("/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);)
        if (line.find(network_layout::kDirectory) != std::string::npos)
            text += line + "\n";
    for (const auto& entry : std::filesystem::directory_iterator(network_layout::kDirectory))
        text += entry.path().filename().string() + "\n";
    return text;
}

TEST(Change, HoldsForOpenConnectionsToo) {
    Guest guest(policy("egress"));
    OpenConnection open(guest);
    ASSERT_TRUE(guest.apply(policy("egress", {}, {kPublic})));
    EXPECT_EQ(write_and_read(open.client.get(), open.peer.get(), "out", kMomentMs), "");
    EXPECT_EQ(write_and_read(open.peer.get(), open.client.get(), "in", kMomentMs), "");
    EXPECT_NE(guest.connect(kPublic), 0);
    ASSERT_TRUE(guest.apply(policy("egress")));
    EXPECT_EQ(guest.connect(kPublic), 0);
}

TEST(Change, LeavesConnectionsThatAreStillAllowed) {
    Guest guest(policy("egress"));
    OpenConnection open(guest);
    ASSERT_TRUE(guest.apply(policy("egress", {std::string(kPublic) + "/32:8080"})));
    EXPECT_EQ(write_and_read(open.client.get(), open.peer.get(), "out"), "out");
    EXPECT_EQ(write_and_read(open.peer.get(), open.client.get(), "in"), "in");
}

TEST(Change, NoneClosesWhatIsOpen) {
    Guest guest(policy("open"));
    OpenConnection open(guest);
    ASSERT_TRUE(guest.apply(policy("none")));
    EXPECT_FALSE(guest.report().open);
    EXPECT_EQ(write_and_read(open.client.get(), open.peer.get(), "out", kMomentMs), "");
    EXPECT_EQ(write_and_read(open.peer.get(), open.client.get(), "in", kMomentMs), "");
}

TEST(Change, ThatFailsLeavesNothingOpen) {
    Guest guest(policy("open"));
    OpenConnection open(guest);
    // Its namespace cannot be entered: the way to it is covered by a file.
    auto pin = std::filesystem::read_symlink(guest.directory() / "network") / "net";
    ASSERT_EQ(::mount("/dev/null", pin.c_str(), nullptr, MS_BIND, nullptr), 0);
    auto applied = guest.apply(policy("egress", {}, {kPublic}));
    ASSERT_EQ(::umount2(pin.c_str(), MNT_DETACH), 0);
    ASSERT_FALSE(applied);
    EXPECT_THAT(applied.error().message, HasSubstr("nothing passes now"));
    EXPECT_FALSE(guest.report().open);
    EXPECT_EQ(write_and_read(open.client.get(), open.peer.get(), "out", kMomentMs), "");
    // The next one that succeeds opens it again, with its own rules.
    ASSERT_TRUE(guest.apply(policy("egress", {}, {kPublic})));
    EXPECT_NE(guest.connect(kPublic), 0);
    EXPECT_EQ(guest.connect(kNameserver, 9), ECONNREFUSED) << "nobody listens, but it is reached";
}

TEST(Meddling, WithASandboxsRulesIsNoticed) {
    Guest guest(policy("egress", {"192.0.2.0/24", "203.0.113.0/24:80"}, {"203.0.113.9"}));
    EXPECT_TRUE(guest.report().intact) << guest.report().what_changed;
    auto meddle = [&](const char* rules) {
        ASSERT_TRUE(in_namespace(guest.sandbox_namespace().get(), [&] { return run_nft(rules); }));
        NetworkReport report = guest.report();
        EXPECT_FALSE(report.intact) << rules;
        EXPECT_THAT(report.what_changed, HasSubstr("changed by another")) << rules;
    };
    meddle("insert rule inet spore forward accept");
    ASSERT_TRUE(guest.apply(policy("none")));
    EXPECT_TRUE(guest.report().intact) << "new rules are the right ones again";
    meddle("flush ruleset");
    ASSERT_TRUE(guest.apply(policy("egress")));
    meddle("delete table netdev spore");
}

TEST(Meddling, WithTheHostsRulesIsNoticedAndMended) {
    Guest guest(policy("egress"));
    EXPECT_TRUE(check_host_rules());
    ASSERT_TRUE(run_nft("flush ruleset"));
    auto checked = check_host_rules();
    ASSERT_FALSE(checked);
    EXPECT_THAT(checked.error().message, HasSubstr("spore_host"));
    EXPECT_FALSE(guest.report().intact);
    Guest next(policy("none"));  // whoever comes next does not rely on them unseen
    EXPECT_TRUE(check_host_rules());
    EXPECT_TRUE(guest.report().intact);
}

TEST(Meddling, RulesOfOthersStay) {
    ASSERT_TRUE(
        run_nft("table inet others {\nchain c {\ntype filter hook input priority 0;\n}\n}\n"));
    {
        Guest guest(policy("egress"));
        EXPECT_TRUE(guest.report().intact);
    }
    EXPECT_TRUE(list_table("inet others"));
    ASSERT_TRUE(run_nft("delete table inet others"));
}

TEST(Removal, LeavesNothing) {
    {
        Guest warm_up(policy("egress"));
    }
    std::string before;
    auto settled = [&] { return inventory() == before; };
    // The kernel takes namespaces apart behind our back.
    ASSERT_TRUE(eventually([] { return inventory().find("spore-") == std::string::npos; }))
        << inventory();
    before = inventory();
    for (int round = 0; round < 30; round++) {
        char name[] = "/run/sandbox-XXXXXX";
        std::filesystem::path directory = ::mkdtemp(name);
        auto tap = make_network(directory, policy("egress"));
        ASSERT_TRUE(tap) << tap.error().message;
        ASSERT_TRUE(apply_policy(directory, policy("egress")));
        // As a pool's directory that becomes a sandbox's.
        std::filesystem::path renamed = directory.string() + "-renamed";
        std::filesystem::rename(directory, renamed);
        tap->reset();
        ASSERT_TRUE(remove_network(renamed));
        EXPECT_FALSE(has_network(renamed));
        std::filesystem::remove_all(renamed);
    }
    EXPECT_TRUE(eventually(settled)) << inventory();
}

// A maker that is killed at any step: what it has left is found by the directory's link.
TEST(Removal, FindsWhatAKilledMakerHasLeft) {
    std::string before;
    ASSERT_TRUE(eventually([] { return inventory().find("spore-") == std::string::npos; }))
        << inventory();
    before = inventory();
    for (int round = 0; round < 30; round++) {
        char name[] = "/run/sandbox-XXXXXX";
        std::filesystem::path directory = ::mkdtemp(name);
        pid_t pid = ::fork();
        if (pid == 0) {
            (void)make_network(directory, policy("egress"));
            ::pause();
        }
        std::this_thread::sleep_for(std::chrono::microseconds(700 * round));
        ASSERT_EQ(::kill(pid, SIGKILL), 0);
        ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
        ASSERT_TRUE(remove_network(directory));
        std::filesystem::remove_all(directory);
    }
    EXPECT_TRUE(eventually([&] { return inventory() == before; })) << inventory();
}

TEST(Link, OfATakenNameIsRefused) {
    Guest guest(policy("none"));
    auto route = RouteSocket::open();
    ASSERT_TRUE(route);
    auto made = route->make_pair("mine", guest.report().link, own_namespace()->get());
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, Code::already_exists);
}

// In a process of its own, whose user namespace may have no more of them.
TEST(Host, OutOfNamespacesIsSaid) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    pid_t pid = ::fork();
    if (pid == 0) {
        std::string said;
        if (::unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) != 0) {
            said = "skip";
        } else {
            std::ofstream("/proc/self/setgroups") << "deny";
            std::ofstream("/proc/self/uid_map") << "0 0 1";
            std::ofstream("/proc/self/gid_map") << "0 0 1";
            (void)set_sysctl("ipv4/ip_forward", "1");
            std::ofstream("/proc/sys/user/max_net_namespaces") << "0" << std::flush;
            ::mount("tmpfs", "/run", "tmpfs", 0, nullptr);
            std::filesystem::create_directory("/run/sandbox");
            auto made = make_network("/run/sandbox", policy("egress"));
            said = made ? "made"
                        : std::string(code_name(made.error().code)) + " " + made.error().message;
        }
        (void)!::write(ends[1], said.data(), said.size());
        ::_exit(0);
    }
    ::close(ends[1]);
    std::string said = read_from(ends[0]);
    ::waitpid(pid, nullptr, 0);
    ::close(ends[0]);
    if (said == "skip")
        GTEST_SKIP() << "this host refuses user namespaces";
    EXPECT_THAT(said, HasSubstr("making a network namespace: No space left on device"));
}

TEST(Host, WithoutForwardingIsSaid) {
    ASSERT_TRUE(world() >= 0);
    ASSERT_TRUE(set_sysctl("ipv4/ip_forward", "0"));
    std::filesystem::create_directory("/run/sandbox");
    auto made = make_network("/run/sandbox", policy("egress"));
    ASSERT_TRUE(set_sysctl("ipv4/ip_forward", "1"));
    ASSERT_FALSE(made);
    EXPECT_THAT(made.error().message, HasSubstr("sysctl -w net.ipv4.ip_forward=1"));
    EXPECT_FALSE(has_network("/run/sandbox"));
}

}  // namespace
}  // namespace spore
