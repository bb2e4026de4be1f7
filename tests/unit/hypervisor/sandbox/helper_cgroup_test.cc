// What runs for a network beside the VM, and its cgroups: on files that look like some.
#include "hypervisor/sandbox/helper_cgroup.h"

#include <gtest/gtest.h>

#include <fstream>

#include "hypervisor/base/network_limits.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

TEST(HelperCgroup, IsBoundedAsTheSandboxButCanAnswerInTime) {
    Quotas quotas;
    EXPECT_EQ(helper_quotas(Helper::passt, quotas).cpu_max_millis, 1000u);
    for (auto [asked, gets] :
         {std::pair(50u, limits::kHelperCpuMillisMin), {500u, 500u}, {4000u, 1000u}}) {
        quotas.cpu_max_millis = asked;
        EXPECT_EQ(helper_quotas(Helper::resolver, quotas).cpu_max_millis, gets) << asked;
    }
    quotas.cpu_weight = 50;
    EXPECT_EQ(helper_quotas(Helper::passt, quotas).cpu_weight, 50u);
    EXPECT_EQ(helper_quotas(Helper::passt, quotas).memory_max, limits::kPasstMemoryBytes);
    EXPECT_EQ(helper_quotas(Helper::resolver, quotas).memory_max, limits::kResolverMemoryBytes);
}

class HelperCgroups : public testing::Test {
  protected:
    HelperCgroups() {
        for (const char* name : {"sandbox", "cgroup"})
            stdfs::create_directory(root / name);
        stdfs::create_directory_symlink(root / "cgroup", root / "sandbox/cgroup-resolver");
    }
    void put(const char* name, const std::string& text) {
        std::ofstream(root / "cgroup" / name) << text;
    }
    std::string get(const char* name) {
        std::ifstream file(root / "cgroup" / name);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    const ScratchDirectory scratch{"helper"};
    const stdfs::path& root = scratch.path();
};

TEST_F(HelperCgroups, FollowTheSandboxesQuotas) {
    put("cpu.max", "");
    put("cpu.weight", "");
    Quotas before, after;
    after.cpu_max_millis = 500;
    after.cpu_weight = 50;
    after.pids_max = 9;  // the guest's own
    ASSERT_TRUE(change_helpers(root / "sandbox", before, after).has_value());
    EXPECT_EQ(get("cpu.max"), "10000 20000");
    EXPECT_EQ(get("cpu.weight"), "50");
    put("cpu.max", "");
    ASSERT_TRUE(change_helpers(root / "sandbox", after, before).has_value());
    EXPECT_EQ(get("cpu.max"), "20000 20000");
    stdfs::remove_all(root / "cgroup");
    EXPECT_TRUE(change_helpers(root / "sandbox", before, after).has_value()) << "it has ended";
}

TEST_F(HelperCgroups, TellWhatTheyUse) {
    put("cpu.stat", "usage_usec 5000\nuser_usec 1\nthrottled_usec 70\n");
    put("cpu.max", "10000 20000\n");
    put("memory.current", "4096\n");
    put("memory.max", "67108864\n");
    put("memory.events", "oom 1\noom_kill 2\n");
    put("pids.current", "3\n");
    put("pids.max", "64\n");
    auto usage = helper_usage(root / "sandbox", Helper::resolver);
    EXPECT_EQ(usage.cpu_us, 5000u);
    EXPECT_EQ(usage.throttled_us, 70u);
    EXPECT_EQ(usage.cpu_max_millis, 500u);
    EXPECT_EQ(usage.memory_bytes, 4096u);
    EXPECT_EQ(usage.memory_max, 67108864u);
    EXPECT_EQ(usage.oom_kills, 2u);
    EXPECT_EQ(usage.tasks, 3u);
    EXPECT_EQ(usage.tasks_max, 64u);
    usage = helper_usage(root / "sandbox", Helper::passt);
    EXPECT_FALSE(usage.cpu_us || usage.memory_bytes || usage.tasks) << "there is none";
}

// The cgroup has what processes have used; the counterparts (jail/cgroup_v1.h) have the rest.
TEST_F(HelperCgroups, TellWhatTheyUseWhereControllersAreInVersion1) {
    for (const char* each : {"unified", "cpu", "memory", "pids"})
        stdfs::create_directories(root / each / "spore/x");
    stdfs::create_directory_symlink(root / "unified/spore/x", root / "sandbox/cgroup-passt");
    for (auto [file, text] : {std::pair("unified/spore/x/cpu.stat", "usage_usec 5000\n"),
                              {"cpu/spore/x/cpu.stat", "throttled_time 70000\n"},
                              {"cpu/spore/x/cpu.cfs_quota_us", "5000\n"},
                              {"cpu/spore/x/cpu.cfs_period_us", "20000\n"},
                              {"memory/spore/x/memory.usage_in_bytes", "8192\n"},
                              {"memory/spore/x/memory.limit_in_bytes", "268435456\n"},
                              {"pids/spore/x/pids.current", "2\n"},
                              {"pids/spore/x/pids.max", "64\n"}})
        std::ofstream(root / file) << text;
    auto usage = helper_usage(root / "sandbox", Helper::passt);
    EXPECT_EQ(usage.cpu_us, 5000u);
    EXPECT_EQ(usage.throttled_us, 70u);
    EXPECT_EQ(usage.cpu_max_millis, 250u);
    EXPECT_EQ(usage.memory_bytes, 8192u);
    EXPECT_EQ(usage.memory_max, 268435456u);
    EXPECT_EQ(usage.tasks, 2u);
    EXPECT_EQ(usage.tasks_max, 64u);
    EXPECT_EQ(why_helper_is_free(root / "sandbox", Helper::passt), "");
}

TEST_F(HelperCgroups, ThatBoundNothingAreTold) {
    put("cpu.max", "20000 20000\n");
    EXPECT_NE(why_helper_is_free(root / "sandbox", Helper::resolver), "");
    put("memory.max", "67108864\n");
    EXPECT_NE(why_helper_is_free(root / "sandbox", Helper::resolver), "") << "its tasks";
    put("pids.max", "64\n");
    EXPECT_EQ(why_helper_is_free(root / "sandbox", Helper::resolver), "");
    EXPECT_NE(why_helper_is_free(root / "sandbox", Helper::passt), "") << "there is none";
    stdfs::remove_all(root / "cgroup");
    EXPECT_NE(why_helper_is_free(root / "sandbox", Helper::resolver), "");
}

}  // namespace
}  // namespace spore
