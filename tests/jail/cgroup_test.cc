// Processes in cgroups of their own, on the host's real hierarchy, below a parent made for a test.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <fstream>

#include "hypervisor/jail/cgroup.h"
#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/jail/jail.h"
#include "tests/jail/harness.h"
#include "tests/jail/probe.h"

namespace spore {
namespace {

using probe::kSucceeded;
using ::testing::HasSubstr;

class OwnCgroup : public ::testing::Test {
  protected:
    void SetUp() override {
        CgroupHost host;
        auto place = find_cgroup_place(host);
        if (!place)
            GTEST_SKIP() << place.error().message;
        place_ = *place;
        place_.path += "-test-" + std::to_string(::getpid());
        auto prepared = prepare_cgroup_place(place_);
        if (!prepared)
            GTEST_SKIP() << prepared.error().message;
    }
    void TearDown() override {
        if (place_.mount.empty())
            return;
        sweep_cgroups(place_);
        remove_parent(place_.directory());
    }
    Cgroup make(const std::string& name) {
        auto made = make_cgroup(place_, name);
        EXPECT_TRUE(made) << made.error().message;
        return made ? std::move(*made) : Cgroup{};
    }

    // With the one in it that holds a quota for good, and with what is made of it in cgroup v1.
    static void remove_parent(const std::filesystem::path& directory) {
        ::rmdir((directory / ".quota").c_str());
        EXPECT_EQ(::rmdir(directory.c_str()), 0) << "cgroups are left in " << directory;
        for (const char* controller : kQuotaControllers) {
            auto v1 = cgroup_v1_of(directory, controller);
            if (v1.empty())
                continue;
            ::rmdir((v1 / ".quota").c_str());
            EXPECT_TRUE(::rmdir(v1.c_str()) == 0 || errno == ENOENT) << v1;
        }
    }

    CgroupPlace place_;
};

TEST_F(OwnCgroup, IsWhereTheProcessIsFromItsStart) {
    Cgroup cgroup = make("one");
    auto probe = Probe::start("loop", "wait_for_ever", 0, true, {cgroup.handle.get(), cgroup.path});
    ASSERT_TRUE(probe) << probe.error().message;
    EXPECT_EQ(probe->process().why_no_cgroup, "");
    auto seen = cgroup_of(std::to_string(probe->process().pid));
    ASSERT_TRUE(seen) << seen.error().message;
    EXPECT_EQ(*seen, cgroup.path);
    ASSERT_TRUE(probe->wait_for("waiting"));
    seen = cgroup_of(std::to_string(probe->process().pid));
    ASSERT_TRUE(seen) << seen.error().message;
    EXPECT_EQ(*seen, cgroup.path) << "after it has entered the jail";
    auto ours = cgroup_of("self");
    ASSERT_TRUE(ours);
    EXPECT_NE(*seen, *ours);

    // In use, it stays; killed through it the process ends, and then it goes.
    cgroup.unstarted.reset();
    EXPECT_EQ(sweep_cgroups(place_), 0u);
    EXPECT_FALSE(remove_cgroup(cgroup.directory));
    kill_cgroup(cgroup.directory);
    auto ended = probe->wait();
    EXPECT_EQ(ended.signal, SIGKILL);
    EXPECT_EQ(ended.report["cgroup"], "");
    EXPECT_EQ(sweep_cgroups(place_), 1u);
}

TEST_F(OwnCgroup, IsToldOnlyIfItIsTrue) {
    Cgroup cgroup = make("one");
    auto other = Probe::start("none", "work_as_vcpu", 0, true,
                              {cgroup.handle.get(), place_.path + "/another"});
    ASSERT_TRUE(other) << other.error().message;
    auto ended = other->wait();
    EXPECT_EQ(ended.status, kSucceeded) << ended.output;
    EXPECT_THAT(ended.report["cgroup"], HasSubstr(cgroup.path + ", not in"));
    auto none = Probe::start("none", "work_as_vcpu", 0, true, {-1, "no hierarchy here"});
    ASSERT_TRUE(none) << none.error().message;
    EXPECT_EQ(none->wait().report["cgroup"], "no hierarchy here");
}

TEST_F(OwnCgroup, ThatIsGoneIsDoneWithoutAndSaid) {
    Cgroup cgroup = make("one");
    ASSERT_TRUE(remove_cgroup(cgroup.directory));
    auto probe = Probe::start("loop", "work_as_loop", 0, true, {cgroup.handle.get(), cgroup.path});
    ASSERT_TRUE(probe) << probe.error().message;
    EXPECT_THAT(probe->process().why_no_cgroup, HasSubstr("cgroup: "));
    EXPECT_TRUE(probe->process().own_pids) << probe->process().why_shared;
    auto ended = probe->wait();
    EXPECT_EQ(ended.status, kSucceeded) << ended.output;
    EXPECT_THAT(ended.report["cgroup"], HasSubstr("not in " + cgroup.path));
}

TEST_F(OwnCgroup, IsMadeOfWhatItsParentHandsOn) {
    auto handed_on = cgroup_controllers(place_);
    Cgroup cgroup = make("one");
    std::ifstream file(cgroup.directory / "cgroup.controllers");
    std::vector<std::string> has;
    for (std::string word; file >> word;)
        has.push_back(word);
    for (const char* known : kCgroupControllers) {
        bool absent = std::ranges::find(handed_on, known) == handed_on.end();
        EXPECT_EQ(std::ranges::find(has, known) == has.end(), absent) << known;
    }
}

// As systemd delegates: a user without rights, started in a cgroup below one that is the user's.
TEST_F(OwnCgroup, IsHadByAUserWithADelegatedSubtree) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root can delegate one";
    if (::access(JAIL_PROBE_PATH, X_OK) != 0)
        GTEST_SKIP() << JAIL_PROBE_PATH << ": cannot be run";
    constexpr uid_t kUser = 65533;
    Cgroup delegated = make("delegated");
    auto inside = delegated.directory / "session";
    ASSERT_EQ(::mkdir(inside.c_str(), 0755), 0);
    ASSERT_EQ(::chmod(place_.directory().c_str(), 0755), 0);
    ASSERT_EQ(::chmod(delegated.directory.c_str(), 0755), 0);
    for (const auto& path : {delegated.directory, delegated.directory / "cgroup.procs",
                             delegated.directory / "cgroup.subtree_control"})
        ASSERT_EQ(::chown(path.c_str(), kUser, kUser), 0) << path;
    pid_t pid = ::fork();
    if (pid == 0) {
        std::ofstream(inside / "cgroup.procs") << "0" << std::flush;
        if (::setresgid(kUser, kUser, kUser) != 0 || ::setresuid(kUser, kUser, kUser) != 0)
            ::_exit(1);
        ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);  // as after an exec
        if (::access(JAIL_PROBE_PATH, X_OK) != 0)
            ::_exit(2);
        CgroupHost host;
        auto place = find_cgroup_place(host);
        if (!place || place->path != delegated.path + "/spore")
            ::_exit(3);
        int status = 0;
        {
            auto cgroup = make_cgroup(*place, "mine");
            if (!cgroup) {
                std::fprintf(stderr, "%s\n", cgroup.error().message.c_str());
                ::_exit(4);
            }
            auto probe =
                Probe::start("loop", "work_as_loop", 0, true, {cgroup->handle.get(), cgroup->path});
            std::string why =
                probe ? probe->process().why_no_cgroup : std::string(probe.error().message);
            if (!why.empty()) {
                std::fprintf(stderr, "%s\n", why.c_str());
                ::_exit(5);
            }
            auto ended = probe->wait();
            status = ended.status == kSucceeded && ended.report["cgroup"].empty() ? 0 : 6;
        }
        if (sweep_cgroups(*place) != 1)
            ::_exit(7);
        ::_exit(status);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    remove_parent(delegated.directory / "spore");
    EXPECT_EQ(::rmdir(inside.c_str()), 0);
    delegated.unstarted.reset();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        GTEST_SKIP() << JAIL_PROBE_PATH << ": is where other users cannot run it";
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace spore
