#include "hypervisor/sandbox/vmm_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "hypervisor/base/deadline.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

// What the child does between fork and exec: system calls only.
[[noreturn]] void become_vmm(const char* program, char* const* arguments, const char* directory,
                             int log, int ready, int extra) {
    ::setsid();
    // The ready pipe and `extra` go to fixed numbers above the standard ones, by way of higher
    // ones: any of them may stand in another's place now. All else is closed.
    constexpr int kAbove = 16;
    int null = ::open("/dev/null", O_RDWR);
    int from[] = {null, log, log, ready, extra};
    int last = extra < 0 ? 3 : 4;
    for (int target = 0; target <= last; target++)
        from[target] = ::fcntl(from[target], F_DUPFD, kAbove);
    for (int target = 0; target <= last; target++) {
        if (from[target] < 0 || ::dup2(from[target], target) < 0)
            ::_exit(70);
    }
    if (::syscall(SYS_close_range, last + 1, ~0u, 0) != 0 || ::chdir(directory) != 0)
        ::_exit(70);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execv(program, arguments);
    ::_exit(70);
}

// The whole of what comes over `pipe` until its end or a newline.
Result<std::string> read_line(int pipe, std::chrono::steady_clock::time_point deadline) {
    std::string line;
    for (;;) {
        pollfd waiting = {pipe, POLLIN, 0};
        int ready = ::poll(&waiting, 1, milliseconds_until(deadline));
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready < 0)
            return fail_errno("poll");
        if (ready == 0)
            return fail(Code::timeout, "spore-vmm: did not say in time that it is ready");
        char buffer[512];
        ssize_t got = ::read(pipe, buffer, sizeof(buffer));
        if (got < 0)
            return fail_errno("the ready pipe");
        line.append(buffer, static_cast<size_t>(got));
        if (got == 0 || line.find('\n') != std::string::npos || line.size() > 8192)
            return line;
    }
}

// "ready\n", or "error <code> <message>\n" (hypervisor/vmm/main.cc).
Status parse_ready(const std::string& line) {
    if (line == "ready\n")
        return {};
    if (!line.starts_with("error "))
        return fail(Code::unavailable, "spore-vmm: ended before it was ready; see its log");
    size_t space = line.find(' ', 6);
    std::string word = line.substr(6, space - 6);
    std::string message = space == std::string::npos ? "" : line.substr(space + 1);
    while (!message.empty() && message.back() == '\n')
        message.pop_back();
    return fail(code_from_name(word), message);
}

}  // namespace

Result<ProcessIdentity> identify_process(int pid) {
    char path[64];
    std::snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
    char text[1024] = {};
    if (!file || ::read(file.get(), text, sizeof(text) - 1) <= 0)
        return fail(Code::not_found, "process " + std::to_string(pid) + ": there is none");
    // The name, field 2, may hold anything, parentheses too: count from the last one.
    const char* rest = std::strrchr(text, ')');
    if (rest == nullptr || rest[1] == '\0')
        return fail(Code::internal, std::string(path) + ": not as proc(5) says");
    if (rest[2] == 'Z')
        return fail(Code::not_found, "process " + std::to_string(pid) + ": has ended");
    ProcessIdentity process{pid, 0};
    const char* field = rest + 1;
    for (int number = 3; number <= 22 && field != nullptr; number++)
        field = std::strchr(field + 1, ' ');
    // `field` stands before field 23; step back to the one before it.
    if (field == nullptr)
        return fail(Code::internal, std::string(path) + ": not as proc(5) says");
    const char* start = field;
    while (start > text && start[-1] != ' ')
        start--;
    process.start_ticks = std::strtoull(start, nullptr, 10);
    return process;
}

bool is_alive(const ProcessIdentity& process) {
    if (process.pid <= 0)
        return false;
    auto now = identify_process(process.pid);
    return now && now->start_ticks == process.start_ticks;
}

Result<ProcessIdentity> start_process(const std::filesystem::path& program,
                                      const std::vector<std::string>& arguments,
                                      const std::filesystem::path& directory,
                                      const std::filesystem::path& log,
                                      std::chrono::steady_clock::time_point deadline, int extra) {
    UniqueFd log_file(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!log_file)
        return fail_errno(log.string());
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);

    std::vector<std::string> words = arguments;
    std::vector<char*> argv;
    for (std::string& word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);

    pid_t pid = ::fork();
    if (pid < 0)
        return fail_errno("fork");
    if (pid == 0)
        become_vmm(program.c_str(), argv.data(), directory.c_str(), log_file.get(), writer.get(),
                   extra);
    writer.reset();
    ProcessIdentity process{pid, 0};
    if (auto identity = identify_process(pid))
        process = *identity;

    auto ready = wait_until_ready(reader.get(), deadline);
    if (ready)
        return process;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return std::unexpected(std::move(ready).error());
}

Result<ProcessIdentity> start_vmm(const std::filesystem::path& program,
                                  const std::vector<std::string>& arguments,
                                  const std::filesystem::path& directory,
                                  const std::filesystem::path& log,
                                  std::chrono::steady_clock::time_point deadline, int extra) {
    std::vector<std::string> words = {"spore-vmm"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    words.push_back("--ready-fd");
    words.push_back("3");
    return start_process(program, words, directory, log, deadline, extra);
}

Status wait_until_ready(int pipe, std::chrono::steady_clock::time_point deadline) {
    return parse_ready(TRY(read_line(pipe, deadline)));
}

Status kill_process(const ProcessIdentity& process,
                    std::chrono::steady_clock::time_point deadline) {
    return end_process(process, SIGKILL, deadline);
}

namespace {

// Sends the signal; a handle of the process, or an empty one if it is gone.
Result<UniqueFd> send_signal(const ProcessIdentity& process, int signal) {
    if (process.pid <= 0)
        return UniqueFd();
    UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
    if (!handle) {
        if (errno == ESRCH)
            return UniqueFd();
        return fail_errno("pidfd_open of " + std::to_string(process.pid));
    }
    // Only now is it sure that the PID cannot change its meaning under us.
    if (!is_alive(process)) {
        ::waitpid(process.pid, nullptr, WNOHANG);
        return UniqueFd();
    }
    if (::syscall(SYS_pidfd_send_signal, handle.get(), signal, nullptr, 0) != 0 && errno != ESRCH)
        return fail_errno("signal to process " + std::to_string(process.pid));
    return handle;
}

}  // namespace

Status signal_process(const ProcessIdentity& process, int signal) {
    TRY(send_signal(process, signal));
    return {};
}

Status end_process(const ProcessIdentity& process, int signal,
                   std::chrono::steady_clock::time_point deadline) {
    auto handle = TRY(send_signal(process, signal));
    if (!handle)
        return {};
    pollfd waiting = {handle.get(), POLLIN, 0};
    while (::poll(&waiting, 1, milliseconds_until(deadline)) == 0) {
        if (std::chrono::steady_clock::now() >= deadline)
            return fail(Code::timeout,
                        "process " + std::to_string(process.pid) + ": did not end when told to");
    }
    ::waitpid(process.pid, nullptr, WNOHANG);
    return {};
}

}  // namespace spore
