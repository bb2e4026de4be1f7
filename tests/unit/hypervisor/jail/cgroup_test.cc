// Where cgroups are made: on trees of files that look like a hierarchy to who does not start
// processes in it. The real one: tests/jail/cgroup_test.cc.

#include "hypervisor/jail/cgroup.h"
#include "hypervisor/jail/cgroup_v1.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <functional>

#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uid_t kUser = 65533;

std::string text_of(const stdfs::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

class CgroupPlaces : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(::chmod(root_.c_str(), 0755), 0);
        host_.mounts = {(root_ / "v2").string(), (root_ / "v1/unified").string()};
        host_.self = (root_ / "self").string();
        host_.wanted.clear();
    }

    void put(const stdfs::path& path, const std::string& text) {
        std::ofstream(root_ / path) << text;
    }
    // A cgroup, as far as it has files.
    void cgroup(const stdfs::path& path, const std::string& controllers = "") {
        stdfs::create_directories(root_ / path);
        put(path / "cgroup.controllers", controllers + "\n");
        put(path / "cgroup.subtree_control", "");
        put(path / "cgroup.procs", "");
    }
    void give(const stdfs::path& path, uid_t user) {
        for (const stdfs::path& each : {root_ / path, root_ / path / "cgroup.procs"})
            ASSERT_EQ(::chown(each.c_str(), user, user), 0);
    }

    const ScratchDirectory scratch_{"cgroup"};
    const stdfs::path& root_ = scratch_.path();
    CgroupHost host_;
};

TEST_F(CgroupPlaces, AreBelowTheHostsRootForWhoMayDivideIt) {
    cgroup("v2");
    put("self", "0::/user.slice/session-1.scope\n");
    auto place = find_cgroup_place(host_);
    ASSERT_TRUE(place) << place.error().message;
    EXPECT_EQ(place->path, "/spore");
    EXPECT_EQ(place->directory(), root_ / "v2/spore");
    EXPECT_FALSE(stdfs::exists(place->directory())) << "made by looking";
}

TEST_F(CgroupPlaces, AreInTheUnifiedHierarchyBesideV1) {
    cgroup("v1/unified");
    put("self", "3:cpu:/\n0::/\n");
    auto place = find_cgroup_place(host_);
    ASSERT_TRUE(place) << place.error().message;
    EXPECT_EQ(place->directory(), root_ / "v1/unified/spore");
}

TEST_F(CgroupPlaces, AreNowhereWithoutAHierarchy) {
    stdfs::create_directories(root_ / "v2");
    auto place = find_cgroup_place(host_);
    ASSERT_FALSE(place);
    EXPECT_EQ(place.error().code, Code::host_unsupported);
    EXPECT_THAT(place.error().message, HasSubstr("no cgroup v2 hierarchy"));
}

TEST_F(CgroupPlaces, AreWhereTheUserWants) {
    cgroup("v2/machines");
    cgroup("v2");
    host_.wanted = (root_ / "v2/machines/ours").string();
    auto place = find_cgroup_place(host_);
    ASSERT_TRUE(place) << place.error().message;
    EXPECT_EQ(place->path, "/machines/ours");
    for (const char* bad : {"none", "/tmp", "relative", "v2"}) {
        host_.wanted = bad;
        place = find_cgroup_place(host_);
        ASSERT_FALSE(place) << bad;
        EXPECT_THAT(place.error().message, HasSubstr(bad));
    }
    host_.wanted = (root_ / "v2").string();
    EXPECT_FALSE(find_cgroup_place(host_)) << "the root itself";
}

TEST_F(CgroupPlaces, HaveAPathThatFitsWhereItIsTold) {
    cgroup("v2");
    host_.wanted = (root_ / "v2").string() + "/" + std::string(300, 'x');
    auto place = find_cgroup_place(host_);
    ASSERT_FALSE(place);
    EXPECT_THAT(place.error().message, HasSubstr("too long"));
}

TEST_F(CgroupPlaces, HandOnEveryControllerThatIsThere) {
    cgroup("v2", "cpuset memory pids");
    auto place = find_cgroup_place(host_);
    ASSERT_TRUE(place) << place.error().message;
    EXPECT_THAT(cgroup_controllers(*place), ElementsAre("memory", "pids"));
    ASSERT_TRUE(prepare_cgroup_place(*place));
    // A real one keeps the sum; a file the last.
    EXPECT_THAT(text_of(root_ / "v2/cgroup.subtree_control"), HasSubstr("+pids"));
    EXPECT_EQ(stdfs::status(place->directory()).permissions(), stdfs::perms::owner_all);
    // Its children have what it hands on, not what it has.
    put("v2/spore/cgroup.subtree_control", "cpu pids\n");
    EXPECT_THAT(cgroup_controllers(*place), ElementsAre("cpu", "pids"));
    EXPECT_THAT(missing_quota_controllers(*place), ElementsAre("memory"));
    put("v2/spore/cgroup.subtree_control", "\n");
    EXPECT_THAT(cgroup_controllers(*place), IsEmpty());
}

TEST_F(CgroupPlaces, KeepACgroupThatIsAboutToBeUsed) {
    cgroup("v2");
    auto place = find_cgroup_place(host_);
    ASSERT_TRUE(place) << place.error().message;
    auto one = make_cgroup(*place, "one");
    ASSERT_TRUE(one) << one.error().message;
    EXPECT_EQ(one->path, "/spore/one");
    EXPECT_TRUE(one->handle);
    auto again = make_cgroup(*place, "one");
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Code::already_exists);
    EXPECT_EQ(sweep_cgroups(*place), 0u);
    EXPECT_TRUE(stdfs::exists(one->directory));
    // Nobody is to use it: its maker is dead, say.
    one->unstarted.reset();
    EXPECT_EQ(sweep_cgroups(*place), 1u);
    EXPECT_FALSE(stdfs::exists(one->directory));
    EXPECT_TRUE(remove_cgroup(one->directory)) << "what is gone is removed";
}

TEST_F(CgroupPlaces, HoldOneWithAQuotaForGood) {
    cgroup("v2");
    auto place = find_cgroup_place(host_);
    ASSERT_TRUE(place) << place.error().message;
    ASSERT_TRUE(prepare_cgroup_place(*place));
    EXPECT_FALSE(stdfs::exists(place->directory() / ".quota")) << "there is no cpu controller";
    put("v2/spore/cpu.max", "max 100000\n");
    ASSERT_TRUE(prepare_cgroup_place(*place));
    EXPECT_EQ(sweep_cgroups(*place), 0u);
    EXPECT_TRUE(stdfs::is_directory(place->directory() / ".quota"));
}

// As much of cgroup v1 as there is in front of a directory.
class CgroupsV1 : public CgroupPlaces {
  protected:
    void SetUp() override {
        CgroupPlaces::SetUp();
        cgroup("v1/unified");
        for (const char* hierarchy : {"v1/cpu", "v1/memory", "v1/net_cls"}) {
            stdfs::create_directories(root_ / hierarchy);
            put(stdfs::path(hierarchy) / "tasks", "");
        }
        put("self", "3:cpu:/\n0::/\n");
        auto place = find_cgroup_place(host_);
        ASSERT_TRUE(place) << place.error().message;
        place_ = *place;
    }
    CgroupPlace place_;
};

TEST_F(CgroupsV1, AreOfTheSamePathInEachHierarchyThatIsThere) {
    EXPECT_EQ(cgroup_v1_of("/sys/fs/cgroup/unified/spore/x", "cpu"), "/sys/fs/cgroup/cpu/spore/x");
    EXPECT_EQ(cgroup_v1_of("/sys/fs/cgroup/spore/x", "cpu"), "") << "all of this host is v2";
    EXPECT_EQ(cgroup_v1_of("", "cpu"), "");
    EXPECT_THAT(cgroup_v1_controllers(place_.directory()), ElementsAre("cpu", "memory"));
    EXPECT_FALSE(stdfs::exists(root_ / "v1/cpu/spore")) << "made by looking";
}

TEST_F(CgroupsV1, AddToWhatQuotasHave) {
    EXPECT_THAT(missing_quota_controllers(place_), ElementsAre("pids"));
    put("v1/unified/cgroup.controllers", "io pids\n");
    EXPECT_THAT(missing_quota_controllers(place_), IsEmpty());
    stdfs::remove_all(root_ / "v1/memory");
    EXPECT_THAT(missing_quota_controllers(place_), ElementsAre("memory"));
}

TEST_F(CgroupsV1, GoWithTheirCgroup) {
    auto one = make_cgroup(place_, "one");
    ASSERT_TRUE(one) << one.error().message;
    EXPECT_TRUE(make_cgroups_v1(one->directory));
    for (const char* there : {"v1/cpu/spore/one", "v1/memory/spore/one"})
        EXPECT_TRUE(stdfs::is_directory(root_ / there)) << there;
    EXPECT_FALSE(stdfs::exists(root_ / "v1/pids")) << "a hierarchy was made up";
    EXPECT_EQ(sweep_cgroups(place_), 0u);
    EXPECT_TRUE(stdfs::exists(root_ / "v1/cpu/spore/one"));
    one->unstarted.reset();
    EXPECT_EQ(sweep_cgroups(place_), 1u);
    for (const char* gone : {"v1/cpu/spore/one", "v1/memory/spore/one", "v1/unified/spore/one"})
        EXPECT_FALSE(stdfs::exists(root_ / gone)) << gone;
}

TEST_F(CgroupsV1, AreNotMadeWithoutRoomForThem) {
    host_.wanted = (root_ / "v1/unified/machines/ours").string();
    auto place = find_cgroup_place(host_);
    ASSERT_TRUE(place) << place.error().message;
    EXPECT_THAT(cgroup_v1_controllers(place->directory()), IsEmpty()) << "no machines there";
    EXPECT_FALSE(make_cgroups_v1(place->directory() / "one"));
}

// As a user without rights: 0 is good.
int as_user(const std::function<int()>& test) {
    pid_t pid = ::fork();
    if (pid == 0) {
        bool other = ::setresgid(kUser, kUser, kUser) == 0 && ::setresuid(kUser, kUser, kUser) == 0;
        ::_exit(other ? test() : 99);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_F(CgroupPlaces, AreInTheTopmostCgroupThatIsDelegated) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root can give a cgroup to another user";
    for (const char* path : {"v2", "v2/user", "v2/user/manager", "v2/user/manager/app"})
        cgroup(path);
    put("self", "0::/user/manager/app\n");
    give("v2/user/manager", kUser);
    give("v2/user/manager/app", kUser);
    EXPECT_EQ(as_user([&] {
                  auto place = find_cgroup_place(host_);
                  return place && place->path == "/user/manager/spore" ? 0 : 1;
              }),
              0);
}

TEST_F(CgroupPlaces, AreNowhereForAUserWithoutADelegatedOne) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root can give a cgroup to another user";
    for (const char* path : {"v2", "v2/user", "v2/user/session", "v2/user/other"})
        cgroup(path);
    give("v2/user/other", kUser);  // not above the process: it could not be started there
    for (const char* own : {"0::/user/session\n", "0::/\n", "0::/../../else\n"}) {
        put("self", own);
        EXPECT_EQ(as_user([&] {
                      auto place = find_cgroup_place(host_);
                      if (place)
                          return 1;
                      bool said = place.error().message.find("delegated") != std::string::npos;
                      return place.error().code == Code::host_unsupported && said ? 0 : 2;
                  }),
                  0)
            << own;
    }
}

}  // namespace
}  // namespace spore
