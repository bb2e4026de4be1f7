// The agent comes before what it starts, and nothing that comes of it inherits that.

#include "agent/spawn.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace spore {
namespace {

constexpr int kFirst = -20;
constexpr int kNotPrivileged = 77;

int nice_of(pid_t pid) {
    return ::getpriority(PRIO_PROCESS, static_cast<id_t>(pid));
}

SpawnPlan plan_of(const char* script, int in, int out) {
    SpawnPlan plan;
    plan.argv = {"/bin/sh", "-c", script};
    plan.environment = {"PATH=/bin:/usr/bin"};
    plan.cwd = "/";
    plan.stdin_fd = in;
    plan.stdout_fd = plan.stderr_fd = out;
    return plan;
}

// What raising the priority changes stays in a process of its own, whose exit status tells.
int in_another_process(int (*run)()) {
    const pid_t child = ::fork();
    if (child == 0) {
        if (!raise_priority())
            ::_exit(kNotPrivileged);
        ::_exit(run());
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define SKIP_UNLESS_PRIVILEGED(status) \
    if ((status) == kNotPrivileged)    \
    GTEST_SKIP() << "needs CAP_SYS_NICE, to have a priority that is not to be inherited"

// It reads until its end, so it is there to be looked at.
int priority_of_what_is_started() {
    int ends[2];
    const int null = ::open("/dev/null", O_WRONLY);
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return 1;
    const auto pid = spawn(plan_of("read line", ends[0], null));
    if (!pid)
        return 2;
    int wrong = 0;
    if (nice_of(0) != kFirst)
        wrong = 3;
    else if (nice_of(*pid) < 0)
        wrong = 4;
    else if (::sched_getscheduler(*pid) != SCHED_OTHER)
        wrong = 5;  // what it starts would be another than it is
    ::close(ends[1]);
    ::waitpid(*pid, nullptr, 0);
    return wrong;
}

TEST(Spawn, StartsNothingWithTheAgentsPriority) {
    const int status = in_another_process(priority_of_what_is_started);
    SKIP_UNLESS_PRIVILEGED(status);
    EXPECT_EQ(status, 0);
}

// It forks at once: before the agent has run again, in some rounds.
int priority_of_what_forks_at_once() {
    constexpr int kRounds = 100;
    int ends[2];
    const int null = ::open("/dev/null", O_RDONLY);
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return 1;
    for (int round = 0; round < kRounds; ++round) {
        // nice(1) without arguments says the priority that it has.
        const auto pid = spawn(plan_of("nice & nice & wait", null, ends[1]));
        if (!pid)
            return 2;
        int status = -1;
        ::waitpid(*pid, &status, 0);
        if (status != 0)
            return 3;
    }
    ::close(ends[1]);
    char byte = 0;
    while (::read(ends[0], &byte, 1) == 1) {
        if (byte == '-')
            return 4;
    }
    return 0;
}

TEST(Spawn, NobodyInheritsItFromAProgramThatForksAtOnce) {
    const int status = in_another_process(priority_of_what_forks_at_once);
    SKIP_UNLESS_PRIVILEGED(status);
    EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace spore
