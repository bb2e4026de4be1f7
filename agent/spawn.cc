#include "agent/spawn.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstddef>

namespace spore {

namespace {

// The child runs on a stack of its own in the agent's memory, so it may only make system calls and
// must allocate nothing. All it needs is prepared here.
struct Execution {
    std::vector<std::string> candidates;  // paths to try in this order
    std::vector<char*> argv;
    std::vector<char*> environment;
    const SpawnPlan* plan = nullptr;
    SpawnFailure failure;
};

constexpr size_t kChildStackBytes = 64 * 1024;

std::vector<char*> pointers_to(const std::vector<std::string>& strings) {
    std::vector<char*> pointers;
    pointers.reserve(strings.size() + 1);
    for (const std::string& string : strings)
        pointers.push_back(const_cast<char*>(string.c_str()));
    pointers.push_back(nullptr);
    return pointers;
}

std::vector<std::string> candidates_for(const std::string& program, std::string_view search_path) {
    if (program.find('/') != std::string::npos)
        return {program};
    std::vector<std::string> candidates;
    while (true) {
        const size_t colon = search_path.find(':');
        const std::string_view folder = search_path.substr(0, colon);
        // An empty element is the current directory (POSIX, execvp).
        candidates.push_back(folder.empty() ? "./" + program : std::string(folder) + "/" + program);
        if (colon == std::string_view::npos)
            return candidates;
        search_path.remove_prefix(colon + 1);
    }
}

bool reset_signals() {
    struct sigaction standard = {};
    standard.sa_handler = SIG_DFL;
    for (int signal = 1; signal < NSIG; ++signal)
        ::sigaction(signal, &standard, nullptr);  // fails for SIGKILL, SIGSTOP and libc's own
    sigset_t none;
    sigemptyset(&none);
    return ::sigprocmask(SIG_SETMASK, &none, nullptr) == 0;
}

// The agent's own score protects it from the OOM killer; its children must not inherit that.
void reset_oom_score() {
    UniqueFd fd(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    if (fd)
        (void)!::write(fd.get(), "0", 1);
}

std::optional<rlimit> descriptor_limit;  // of the commands; nothing: the agent's
std::optional<int> command_nice;         // likewise

bool reset_limits() {
    return !descriptor_limit || ::setrlimit(RLIMIT_NOFILE, &*descriptor_limit) == 0;
}

// The agent stands still until execve is through, so its child is not to wait behind a hundred
// others before that; but what the program forks before reset_priority() must not inherit it.
bool keep_priority_to_itself() {
    const sched_param none = {};
    return !command_nice || ::sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &none) == 0;
}

// Of a child that has become its program, by the agent. In this order: while it has the priority,
// nobody inherits it.
bool reset_priority(pid_t pid) {
    const sched_param none = {};
    return !command_nice ||
           (::setpriority(PRIO_PROCESS, static_cast<id_t>(pid), *command_nice) == 0 &&
            ::sched_setscheduler(pid, SCHED_OTHER, &none) == 0);
}

// clone3(2) of a child that shares the agent's memory, on a stack of its own, while the agent waits
// (CLONE_VFORK). The C library has no function for it, and its clone cannot start in a control
// group, while moving a process later costs an RCU grace period. Negative: -errno.
long clone_onto_stack(clone_args& arguments, int (*run)(void*), void* argument) {
    long result = SYS_clone3;
    asm volatile(
        "syscall\n\t"
        "test %%rax, %%rax\n\t"
        "jnz 1f\n\t"
        "mov %[argument], %%rdi\n\t"
        "call *%[run]\n\t"
        "hlt\n"
        "1:"
        : "+a"(result)
        : "D"(&arguments), "S"(sizeof(arguments)), [run] "r"(run), [argument] "r"(argument)
        : "rcx", "r11", "memory", "cc");
    return result;
}

bool set_streams(const SpawnPlan& plan) {
    if (plan.terminal && ::ioctl(plan.stdin_fd, TIOCSCTTY, 0) != 0)
        return false;
    // A copy of a descriptor onto itself would still be closed by execve. The others are copied by
    // then, whichever of them had the number.
    const auto set_control = [&plan] {
        return plan.control_fd < 0 ||
               (plan.control_fd == kControlFd ? ::fcntl(kControlFd, F_SETFD, 0) == 0
                                              : ::dup2(plan.control_fd, kControlFd) >= 0);
    };
    return ::dup2(plan.stdin_fd, STDIN_FILENO) >= 0 && ::dup2(plan.stdout_fd, STDOUT_FILENO) >= 0 &&
           ::dup2(plan.stderr_fd, STDERR_FILENO) >= 0 && set_control();
}

// System calls and not the C library's functions, which tell every thread of the process, and this
// child shares the agent's memory.
bool become(const User& user) {
    return ::syscall(SYS_setgroups, user.groups.size(), user.groups.data()) == 0 &&
           ::syscall(SYS_setresgid, user.gid, user.gid, user.gid) == 0 &&
           ::syscall(SYS_setresuid, user.uid, user.uid, user.uid) == 0;
}

// Returns errno: as a shell does, a program that is found but may not be executed counts only if no
// later folder has one that can be.
int execute(const Execution& child) {
    int error = ENOENT;
    for (const std::string& candidate : child.candidates) {
        ::execve(candidate.c_str(), child.argv.data(), child.environment.data());
        if (errno == EACCES)
            error = EACCES;
        else if (errno != ENOENT && errno != ENOTDIR)
            return errno;
        else if (child.candidates.size() == 1)
            error = errno;
    }
    return error;
}

int run_child(void* argument) {
    Execution& child = *static_cast<Execution*>(argument);
    const SpawnPlan& plan = *child.plan;
    using Step = SpawnFailure::Step;
    const auto stop = [&child](Step step) { child.failure = {step, errno}; };
    if (::setsid() < 0 || !reset_signals() || !reset_limits() || !keep_priority_to_itself())
        stop(Step::session);
    else if (reset_oom_score(); !set_streams(plan))
        stop(Step::streams);
    else if (plan.user && !become(*plan.user))
        stop(Step::user);
    else if (::chdir(plan.cwd.c_str()) != 0)
        stop(Step::cwd);
    else
        child.failure = {Step::execute, execute(child)};
    ::_exit(127);
}

}  // namespace

Status raise_descriptor_limit() {
    rlimit limit = {};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return fail_errno("RLIMIT_NOFILE");
    descriptor_limit = limit;
    limit.rlim_cur = limit.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return fail_errno("RLIMIT_NOFILE");
    return {};
}

Status raise_priority() {
    constexpr int kFirst = -20;
    errno = 0;  // -1 is a priority too
    const int before = ::getpriority(PRIO_PROCESS, 0);
    if (errno != 0 || ::setpriority(PRIO_PROCESS, 0, kFirst) != 0)
        return fail_errno("priority " + std::to_string(kFirst));
    command_nice = before;
    return {};
}

std::expected<pid_t, SpawnFailure> spawn(const SpawnPlan& plan) {
    alignas(16) static std::array<std::byte, kChildStackBytes> stack;
    Execution child = {.candidates = candidates_for(plan.argv[0], plan.search_path),
                       .argv = pointers_to(plan.argv),
                       .environment = pointers_to(plan.environment),
                       .plan = &plan};
    // No handler of the agent's may run in the child, which has its memory.
    sigset_t all, before;
    sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before);
    clone_args arguments = {};
    arguments.flags = CLONE_VM | CLONE_VFORK;
    arguments.exit_signal = SIGCHLD;
    arguments.stack = reinterpret_cast<uintptr_t>(stack.data());
    arguments.stack_size = stack.size();
    if (plan.cgroup_fd >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = static_cast<uint64_t>(plan.cgroup_fd);
    }
    const long cloned = clone_onto_stack(arguments, run_child, &child);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    if (cloned < 0)
        return std::unexpected(SpawnFailure{SpawnFailure::Step::clone, static_cast<int>(-cloned)});
    const pid_t pid = static_cast<pid_t>(cloned);
    if (child.failure.error != 0) {
        ::waitpid(pid, nullptr, 0);
        return std::unexpected(child.failure);
    }
    if (!reset_priority(pid)) {
        const SpawnFailure failure = {SpawnFailure::Step::session, errno};
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        return std::unexpected(failure);
    }
    return pid;
}

}  // namespace spore
