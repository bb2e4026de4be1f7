#include "agent/process_table.h"

#include <dirent.h>
#include <time.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "agent/file.h"

namespace spore {

namespace {

struct Stat {
    ProcessFacts facts;
    bool ended = false;
};

std::optional<Stat> read_stat(pid_t pid) {
    const auto text = read_file("/proc/" + std::to_string(pid) + "/stat");
    if (!text)
        return std::nullopt;
    // The name before it may have anything in it, parentheses too (proc(5)).
    const size_t name_end = text->rfind(')');
    if (name_end == std::string::npos)
        return std::nullopt;
    char state = 0;
    int session = 0;
    unsigned long long user = 0, system = 0, start = 0;
    long long waited_user = 0, waited_system = 0;
    const int found =
        std::sscanf(text->c_str() + name_end + 1,
                    " %c %*d %*d %d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld "
                    "%*d %*d %*d %*d %llu",
                    &state, &session, &user, &system, &waited_user, &waited_system, &start);
    if (found != 7)
        return std::nullopt;
    const uint64_t cpu_ticks = user + system + static_cast<uint64_t>(waited_user + waited_system);
    return Stat{{session, start, cpu_ticks}, state == 'Z' || state == 'X'};
}

}  // namespace

std::optional<ProcessFacts> look_up(pid_t pid) {
    const auto stat = read_stat(pid);
    if (!stat || stat->ended)
        return std::nullopt;
    return stat->facts;
}

pid_t session_of(pid_t pid) {
    const auto stat = read_stat(pid);
    return stat ? stat->facts.session : 0;
}

ProcessMoment ProcessMoment::now() {
    timespec time = {};
    ::clock_gettime(CLOCK_BOOTTIME, &time);
    constexpr uint64_t kTickNs = 1'000'000'000 / kTicksPerSecond;
    ProcessMoment moment;
    moment.ticks = static_cast<uint64_t>(time.tv_sec) * kTicksPerSecond +
                   static_cast<uint64_t>(time.tv_nsec) / kTickNs;
    const std::string load = read_file("/proc/loadavg").value_or(std::string());
    const size_t last = load.rfind(' ');
    moment.last_pid = last == std::string::npos ? 0 : std::atoi(load.c_str() + last);
    return moment;
}

void signal_session(pid_t session, int signal, const ProcessMoment& since) {
    constexpr int kSweepsMax = 8;  // one that forks faster than it is killed is not waited for
    std::set<pid_t> told;
    for (int round = 0; round < kSweepsMax; ++round) {
        DIR* processes = ::opendir("/proc");
        if (processes == nullptr)
            return;
        bool found = false;
        while (const dirent* entry = ::readdir(processes)) {
            const pid_t pid = std::atoi(entry->d_name);
            if (pid <= 1 || told.contains(pid))
                continue;
            const auto facts = look_up(pid);
            if (!facts || facts->session != session || facts->start_ticks < since.ticks ||
                (facts->start_ticks == since.ticks && pid <= since.last_pid))
                continue;
            ::kill(pid, signal);
            told.insert(pid);
            found = true;
        }
        ::closedir(processes);
        if (!found || signal != SIGKILL)
            return;
    }
}

}  // namespace spore
