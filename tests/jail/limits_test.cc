// Limits of a spot hold what is started in it, whichever version of cgroups this host has a
// controller in.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/jail/namespaces.h"
#include "hypervisor/sandbox/cgroup_spot.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

class Limits : public ::testing::Test {
  protected:
    void TearDown() override {
        if (process_.pid > 0) {
            ::kill(process_.pid, SIGKILL);
            ::waitpid(process_.pid, nullptr, 0);
        }
        if (here_.empty())
            return;
        std::string cgroup = cgroup_of_directory(here_);
        (void)remove_sandbox_tree(here_);
        auto limit = Clock::now() + std::chrono::seconds(60);
        while (stdfs::exists(cgroup) && Clock::now() < limit)
            clear_cgroups();
        for (const char* controller : kQuotaControllers)
            EXPECT_FALSE(stdfs::exists(cgroup_v1_of(cgroup, controller))) << controller;
    }

    // Skips where limits of this kind cannot be had.
    void start(const char* controller, const CgroupQuotas& quotas, const std::string& script) {
        auto place = find_cgroup_place();
        if (!place)
            GTEST_SKIP() << place.error().message;
        ASSERT_TRUE(prepare_cgroup_place(*place));  // which tells what the host really hands on
        auto has = cgroup_controllers(*place);
        for (const std::string& each : cgroup_v1_controllers(place->directory()))
            has.push_back(each);
        if (std::ranges::find(has, controller) == has.end())
            GTEST_SKIP() << "no controller " << controller << " in " << place->directory();
        int ends[2];  // it waits for the end of what it reads
        ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        auto spot = CgroupSpot::make(here_, quotas);
        ASSERT_GE(spot.handle(), 0) << spot.text();
        ProcessPlan plan{"/bin/sh", {"sh", "-c", "read go; " + script},
                         "/",       {ends[0], 2, 2},
                         true,      spot.handle()};
        UniqueFd go(ends[1]), waits(ends[0]);
        auto v1 = spot.open_v1(0);
        for (const UniqueFd& tasks : v1)
            plan.cgroups_v1.push_back(tasks.get());
        auto started = start_isolated(plan);
        ASSERT_TRUE(started) << started.error().message;
        spot.started();
        EXPECT_EQ(started->why_no_cgroup, "");
        process_ = std::move(*started);
    }
    CgroupUsage usage() const { return read_cgroup_usage(cgroup_of_directory(here_)); }
    int wait() {
        int status = 0;
        EXPECT_EQ(::waitpid(std::exchange(process_.pid, -1), &status, 0) > 0, true);
        return status;
    }
    // Until it has used so much; the share of the time that this was.
    double share_until_used(uint64_t more_us) {
        auto begun = Clock::now();
        uint64_t before = usage().cpu_us.value_or(0), now = before;
        while (now < before + more_us && Clock::now() < begun + std::chrono::seconds(60)) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
            now = usage().cpu_us.value_or(0);
        }
        double took_us = Seconds(Clock::now() - begun).count() * 1e6;
        return static_cast<double>(now - before) / took_us;
    }

    const ScratchDirectory scratch_{"limits"};
    const stdfs::path& here_ = scratch_.path();
    IsolatedProcess process_;
};

// A tenth, which there is on a busy machine too.
TEST_F(Limits, OfProcessorTimeHoldFromTheStartAndUntilTheyAreTakenAway) {
    constexpr CgroupQuotas kTenth{.cpu_max_millis = 100, .tasks_max = 544};
    start("cpu", kTenth, "while :; do :; done");
    if (IsSkipped() || HasFatalFailure())
        return;
    EXPECT_EQ(usage().cpu_max_millis, 100u);
    (void)share_until_used(10'000);  // what a start is allowed to borrow
    double share = share_until_used(200'000);
    RecordProperty("share", std::to_string(share));
    EXPECT_LE(share, 0.105);
    EXPECT_GT(usage().throttled_us.value_or(0), 0u) << "nothing held it back";
    auto set = set_cgroup_quotas(cgroup_of_directory(here_), {.tasks_max = 544}, kTenth);
    ASSERT_TRUE(set.has_value() && set->empty());
    auto limit = Clock::now() + std::chrono::seconds(60);
    while (share_until_used(50'000) < 0.12)
        ASSERT_LT(Clock::now(), limit) << "still held";
}

TEST_F(Limits, OfMemoryEndWhatWantsMore) {
    // Should they not hold, it ends by itself at a GiB, and says so.
    start("memory", {.memory_max = 64 << 20}, "ulimit -v 1048576; exec tail /dev/zero");
    if (IsSkipped() || HasFatalFailure())
        return;
    int status = wait();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    EXPECT_EQ(usage().oom_kills, 1u);
    EXPECT_EQ(usage().memory_max, uint64_t{64} << 20);
}

TEST_F(Limits, OfTasksRefuseMore) {
    start("pids", {.tasks_max = 4},
          "for each in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo more than 4");
    if (IsSkipped() || HasFatalFailure())
        return;
    int status = wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 0) << status;
    EXPECT_EQ(usage().tasks_max, 4u);
}

// Of all counterparts, or a limit in one would hold nobody; and what is not there is told.
TEST_F(Limits, ThatHoldNobodyAreTold) {
    auto place = find_cgroup_place();
    if (!place || cgroup_v1_controllers(place->directory()).empty())
        GTEST_SKIP() << "this host has no controller in cgroup v1";
    start("cpu", {.tasks_max = 544}, "while :; do sleep 1000; done");
    if (IsSkipped() || HasFatalFailure())
        return;
    stdfs::path cgroup = cgroup_of_directory(here_);
    drop_unused_cgroups_v1(cgroup);
    auto set = set_cgroup_quotas(cgroup, {.cpu_max_millis = 500, .tasks_max = 544}, {});
    ASSERT_TRUE(set.has_value()) << set.error().message;
    EXPECT_TRUE(set->empty()) << "it is in none of " << set->front().name;
    auto spot = CgroupSpot::make(here_, {.tasks_max = 544});
    spot.started();  // and nobody went there
    set = set_cgroup_quotas(cgroup_of_directory(here_), {.cpu_max_millis = 500}, {});
    ASSERT_TRUE(set.has_value() && set->size() == 1u);
    EXPECT_EQ(set->front().name, "cpu_max");
    (void)remove_cgroup(cgroup_of_directory(here_));
    std::error_code error;
    stdfs::remove(here_ / kCgroupLink, error);
    stdfs::create_symlink(cgroup, here_ / kCgroupLink, error);
}

}  // namespace
}  // namespace spore::test
