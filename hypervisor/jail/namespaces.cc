#include "hypervisor/jail/namespaces.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/jail/filter_policy.h"

namespace spore {

namespace {

// What the child has of the parent between clone and exec. It runs in the parent's memory while the
// parent waits: system calls only, and no change to anything but `error`.
struct Handover {
    const char* program;
    char* const* arguments;
    const char* directory;
    const int* descriptors;
    int count;
    const int* cgroups_v1;
    size_t cgroups_v1_count;
    bool own_user;
    char user_map[48];
    char group_map[48];
    const char* failed = nullptr;
    int error = 0;
};

bool put(const char* path, const char* text) {
    int fd = ::open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool written = ::write(fd, text, std::strlen(text)) > 0;
    ::close(fd);
    return written;
}

// Sources out of the way of their targets first.
bool arrange_descriptors(const Handover& plan) {
    constexpr int kMost = 32;
    std::array<int, kMost> copies = {};
    if (plan.count > kMost) {
        errno = E2BIG;
        return false;
    }
    for (int index = 0; index < plan.count; index++) {
        int source = plan.descriptors[index];
        int opened = source < 0 ? ::open("/dev/null", O_RDWR | O_CLOEXEC) : source;
        copies[index] = ::fcntl(opened, F_DUPFD_CLOEXEC, plan.count);
        if (copies[index] < 0)
            return false;
    }
    for (int index = 0; index < plan.count; index++) {
        if (::dup2(copies[index], index) < 0)
            return false;
    }
    return ::syscall(SYS_close_range, plan.count, ~0u, 0) == 0;
}

[[noreturn]] void become_program(void* argument) {
    auto& plan = *static_cast<Handover*>(argument);
    auto give_up = [&](const char* what) {
        plan.error = errno;
        plan.failed = what;
        ::_exit(70);
    };
    if (plan.own_user &&
        (!put("/proc/self/setgroups", "deny") || !put("/proc/self/uid_map", plan.user_map) ||
         !put("/proc/self/gid_map", plan.group_map)))
        give_up("writing the ID maps");
    ::setsid();
    enter_cgroups_v1(plan.cgroups_v1, plan.cgroups_v1_count);
    if (!arrange_descriptors(plan))
        give_up("its descriptors");
    if (::chdir(plan.directory) != 0)
        give_up(plan.directory);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execv(plan.program, plan.arguments);
    give_up(plan.program);
    __builtin_unreachable();
}

// clone3 with a stack for the child, which runs `child(argument)` on it and never returns. glibc's
// clone() has neither CLONE_CLEAR_SIGHAND nor, here, anything that this lacks.
long clone_with_stack(clone_args& request, void (*child)(void*), void* argument) {
    long result = SYS_clone3;
    register void (*function)(void*) asm("r12") = child;
    register void* value asm("r13") = argument;
    asm volatile(
        "syscall\n"
        "test %%rax, %%rax\n"
        "jnz 1f\n"
        "xor %%ebp, %%ebp\n"
        "mov %[value], %%rdi\n"
        "call *%[function]\n"
        "ud2\n"
        "1:\n"
        : "+a"(result)
        : "D"(&request), "S"(sizeof(request)), [function] "r"(function), [value] "r"(value)
        : "rcx", "r11", "memory", "cc");
    return result;
}

using Stack = std::array<std::byte, 32 * 1024>;

// A child that shares our memory while we wait: that spares the copy of the page tables. No handler
// may run in it before exec has cleared them.
long clone_sharing(clone_args request, Stack& stack, void (*child)(void*), void* argument) {
    request.flags |= CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND;
    request.stack = reinterpret_cast<uintptr_t>(stack.data());
    request.stack_size = stack.size();
    return clone_with_stack(request, child, argument);
}

// The process between us and a detached one, which ends at once. It has our descriptors, so that
// the pidfd is ours.
struct Between {
    const clone_args& request;
    Stack& stack;
    Handover& plan;
    long pid;
};

[[noreturn]] void start_and_leave(void* argument) {
    auto& between = *static_cast<Between*>(argument);
    between.pid = clone_sharing(between.request, between.stack, become_program, &between.plan);
    ::_exit(0);
}

long clone_program(uint64_t flags, int cgroup, bool detached, Handover& plan, UniqueFd& handle) {
    alignas(16) Stack stack, stack_between;
    int pidfd = -1;
    clone_args request = {};
    request.flags = flags | CLONE_PIDFD;
    request.pidfd = reinterpret_cast<uintptr_t>(&pidfd);
    request.exit_signal = SIGCHLD;
    if (cgroup >= 0) {
        request.flags |= CLONE_INTO_CGROUP;
        request.cgroup = static_cast<uint64_t>(cgroup);
    }
    plan.own_user = (flags & CLONE_NEWUSER) != 0;
    long pid = 0;
    if (!detached) {
        pid = clone_sharing(request, stack, become_program, &plan);
    } else {
        Between between{request, stack, plan, -EAGAIN};
        clone_args request_between = {};  // no signal tells us of its end
        request_between.flags = CLONE_FILES;
        pid = clone_sharing(request_between, stack_between, start_and_leave, &between);
        if (pid > 0) {
            ::waitpid(static_cast<pid_t>(pid), nullptr, __WALL);
            pid = between.pid;
        }
    }
    handle.reset(pidfd);
    return pid;
}

// With as much of what the plan wants as the host allows.
long clone_as_allowed(const ProcessPlan& plan, int cgroup, Handover& handover,
                      IsolatedProcess& started) {
    started.own_pids = plan.own_pids;
    started.why_shared.clear();
    long pid = clone_program(plan.own_pids ? CLONE_NEWPID : 0, cgroup, plan.detached, handover,
                             started.handle);
    if (pid == -EPERM && plan.own_pids)  // not root
        pid = clone_program(CLONE_NEWPID | CLONE_NEWUSER, cgroup, plan.detached, handover,
                            started.handle);
    if (plan.own_pids && (pid == -EPERM || pid == -ENOSPC || pid == -EINVAL)) {
        started.own_pids = false;
        started.why_shared = std::string("PID namespace: ") + std::strerror(static_cast<int>(-pid));
        pid = clone_program(0, cgroup, plan.detached, handover, started.handle);
    }
    return pid;
}

void* thread_id_address = nullptr;

}  // namespace

Result<IsolatedProcess> start_isolated(const ProcessPlan& plan) {
    std::vector<char*> arguments;
    arguments.reserve(plan.arguments.size() + 1);
    for (const std::string& word : plan.arguments)
        arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    Handover handover = {};
    handover.program = plan.program.c_str();
    handover.arguments = arguments.data();
    handover.directory = plan.directory.c_str();
    handover.descriptors = plan.descriptors.data();
    handover.count = static_cast<int>(plan.descriptors.size());
    handover.cgroups_v1 = plan.cgroups_v1.data();
    handover.cgroups_v1_count = plan.cgroups_v1.size();
    std::snprintf(handover.user_map, sizeof(handover.user_map), "%u %u 1\n", ::geteuid(),
                  ::geteuid());
    std::snprintf(handover.group_map, sizeof(handover.group_map), "%u %u 1\n", ::getegid(),
                  ::getegid());

    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    IsolatedProcess started;
    long pid = clone_as_allowed(plan, plan.cgroup, handover, started);
    if (plan.cgroup >= 0 && pid < 0) {
        started.why_no_cgroup = std::string("cgroup: ") + std::strerror(static_cast<int>(-pid));
        pid = clone_as_allowed(plan, -1, handover, started);
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (pid < 0)
        return fail_errno("starting " + plan.program, static_cast<int>(-pid));
    started.pid = static_cast<pid_t>(pid);
    if (handover.failed != nullptr) {
        siginfo_t ended = {};
        if (!plan.detached)
            ::waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED);
        return fail_errno("starting " + plan.program + ": " + handover.failed, handover.error);
    }
    return started;
}

void prepare_fork_jailed() {
    // Where glibc has the main thread's ID. Without CONFIG_CHECKPOINT_RESTORE nobody can say.
    if (::prctl(PR_GET_TID_ADDRESS, &thread_id_address, 0, 0, 0) != 0)
        thread_id_address = nullptr;
}

Result<pid_t> fork_jailed(int cgroup) {
    long pid = 0;
    if (cgroup < 0) {
        pid = ::syscall(SYS_clone, filter::kWorkerFlags, nullptr, nullptr, thread_id_address,
                        nullptr);
    } else {
        clone_args request = {};
        request.flags = (filter::kWorkerFlags & ~uint64_t{SIGCHLD}) | CLONE_INTO_CGROUP;
        request.exit_signal = SIGCHLD;
        request.child_tid = reinterpret_cast<uintptr_t>(thread_id_address);
        request.cgroup = static_cast<uint64_t>(cgroup);
        pid = ::syscall(SYS_clone3, &request, sizeof(request));
    }
    if (pid < 0)
        return fail_errno(cgroup < 0 ? "clone of a worker" : "clone of a worker into its cgroup");
    return static_cast<pid_t>(pid);
}

}  // namespace spore
