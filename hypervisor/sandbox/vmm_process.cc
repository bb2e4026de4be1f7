#include "hypervisor/sandbox/vmm_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "hypervisor/base/deadline.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/jail/namespaces.h"

namespace spore {

namespace {

// The whole of what comes over `pipe` until its end or a newline.
Result<std::string> read_line(int pipe, std::chrono::steady_clock::time_point deadline) {
    std::string line;
    for (;;) {
        TRY(wait_readable(pipe, deadline, "spore-vmm: did not say in time that it is ready"));
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

namespace {

Result<ProcessIdentity> start_and_wait(ProcessPlan plan, const std::filesystem::path& log,
                                       std::chrono::steady_clock::time_point deadline, int extra,
                                       CgroupSpot* spot) {
    UniqueFd log_file(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!log_file)
        return fail_errno(log.string());
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    plan.detached = true;  // who embeds us does not know of it
    plan.descriptors = {-1, log_file.get(), log_file.get(), writer.get()};
    if (extra >= 0)
        plan.descriptors.push_back(extra);
    std::vector<UniqueFd> v1;
    if (spot != nullptr) {
        plan.cgroup = spot->handle();
        v1 = spot->open_v1(0);
    }
    for (const UniqueFd& tasks : v1)
        plan.cgroups_v1.push_back(tasks.get());
    auto started = TRY(start_isolated(plan));
    if (spot != nullptr && !started.why_no_cgroup.empty())
        spot->missed(started.why_no_cgroup);
    else if (spot != nullptr)
        spot->started();
    writer.reset();
    ProcessIdentity process{started.pid, 0};
    if (auto identity = identify_process(started.pid))
        process = *identity;

    auto ready = wait_until_ready(reader.get(), deadline);
    if (ready)
        return process;
    ::syscall(SYS_pidfd_send_signal, started.handle.get(), SIGKILL, nullptr, 0);
    pollfd ended = {started.handle.get(), POLLIN, 0};
    (void)::poll(&ended, 1, 10'000);
    return std::unexpected(std::move(ready).error());
}

}  // namespace

Result<ProcessIdentity> start_process(const std::filesystem::path& program,
                                      const std::vector<std::string>& arguments,
                                      const std::filesystem::path& directory,
                                      const std::filesystem::path& log,
                                      std::chrono::steady_clock::time_point deadline, int extra,
                                      CgroupSpot* spot) {
    ProcessPlan plan{program.string(), arguments, directory.string(), {}, false, -1};
    return start_and_wait(std::move(plan), log, deadline, extra, spot);
}

Result<ProcessIdentity> start_vmm(const std::filesystem::path& program,
                                  const std::vector<std::string>& arguments,
                                  const std::filesystem::path& directory,
                                  const std::filesystem::path& log,
                                  std::chrono::steady_clock::time_point deadline, int extra,
                                  CgroupSpot* spot) {
    ProcessPlan plan{program.string(), {"spore-vmm"}, directory.string(), {}, true, -1};
    plan.arguments.insert(plan.arguments.end(), arguments.begin(), arguments.end());
    plan.arguments.push_back("--ready-fd");
    plan.arguments.push_back("3");
    if (spot != nullptr)
        plan.arguments.insert(plan.arguments.end(), {"--cgroup", spot->text()});
    plan.own_pids = std::ranges::find(arguments, "--zygote-fd") == arguments.end();
    // Without them a jail makes its own; only root can.
    if (::geteuid() == 0)
        (void)pin_namespaces();
    return start_and_wait(std::move(plan), log, deadline, extra, spot);
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
    if (!is_alive(process))
        return UniqueFd();
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
    return {};
}

}  // namespace spore
