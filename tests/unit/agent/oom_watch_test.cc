// What the agent makes of the kernel's log.

#include "agent/oom_watch.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

namespace spore {
namespace {

constexpr int kKilled = SIGKILL, kShellSaysKilled = 137 << 8, kFine = 0;

class OomWatchTest : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(poller.open());
        int ends[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
        log = UniqueFd(ends[0]);
        watch.open(poller, UniqueFd(ends[1]));
        // A child that leads a session of its own, and has ended but not been reaped.
        child = ::fork();
        if (child == 0) {
            ::setsid();
            ::_exit(0);
        }
        siginfo_t info;
        ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
    }
    void TearDown() override { ::waitpid(child, nullptr, 0); }
    void say(const std::string& record) {
        ASSERT_EQ(::send(log.get(), record.data(), record.size(), 0), ssize_t(record.size()));
    }
    void kill_says(pid_t pid, const std::string& how = "Out of memory") {
        say("3,900,123456,-;" + how + ": Killed process " + std::to_string(pid) +
            " (python3) total-vm:300kB, anon-rss:1kB, UID:0 pgtables:1kB oom_score_adj:0\n");
    }

    Poller poller;
    OomWatch watch;
    UniqueFd log;
    pid_t child = -1;
};

TEST_F(OomWatchTest, CountsForTheSessionOfTheProcess) {
    kill_says(child);
    EXPECT_FALSE(watch.take(child + 1, kFine));
    EXPECT_TRUE(watch.take(child, kFine)) << "whatever it made of it";
    EXPECT_FALSE(watch.take(child, kKilled)) << "told once";
}

TEST_F(OomWatchTest, KnowsTheKillsOfAControlGroupToo) {
    kill_says(child, "Memory cgroup out of memory");
    EXPECT_TRUE(watch.take(child, kKilled));
}

TEST_F(OomWatchTest, OneThatIsGoneCountsForWhoEndsThatWay) {
    const pid_t gone = 0x3fffff;  // above any pid_max
    kill_says(gone);
    EXPECT_FALSE(watch.take(100, kFine));
    EXPECT_TRUE(watch.take(101, kShellSaysKilled));
    EXPECT_FALSE(watch.take(102, kShellSaysKilled));
    kill_says(gone);
    EXPECT_TRUE(watch.take(gone, kFine)) << "it was the leader itself";
    EXPECT_FALSE(watch.take(103, kKilled));
}

TEST_F(OomWatchTest, BelievesTheKernelAlone) {
    const std::string pid = std::to_string(child);
    say("12,900,1,-;Out of memory: Killed process " + pid + " (x)");  // facility user
    say("3,900,1,-;python3: Out of memory: Killed process " + pid + " (x)");
    say("3,900,1,-;Out of memory: Killed process none");
    say("Out of memory: Killed process " + pid);
    say(";");
    say("x,1,1,-;Out of memory: Killed process " + pid);
    EXPECT_FALSE(watch.take(child, kKilled));
    kill_says(child);
    EXPECT_TRUE(watch.take(child, kKilled)) << "and reads on behind all that";
}

TEST_F(OomWatchTest, NoticesWithoutBeingAsked) {
    kill_says(child);
    ASSERT_TRUE(poller.wait(10'000));
    ::waitpid(child, nullptr, 0);
    EXPECT_TRUE(watch.take(child, kFine));
}

}  // namespace
}  // namespace spore
