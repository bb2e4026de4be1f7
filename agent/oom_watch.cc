#include "agent/oom_watch.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>

#include "agent/process_table.h"

namespace spore {

namespace {

// Notes that nobody asks for (of daemons, say) must not become more and more.
constexpr size_t kNotesMax = 256;
// Processes may write to the log as fast as it is read.
constexpr int kRecordsAtOnce = 1024;

// mm/oom_kill.c, __oom_kill_process.
constexpr std::string_view kBegins[] = {"Out of memory", "Memory cgroup out of memory"};
constexpr std::string_view kVictim = ": Killed process ";

bool looks_killed(int wait_status) {
    return (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL) ||
           (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 128 + SIGKILL);
}

}  // namespace

void OomWatch::open(Poller& poller, UniqueFd log) {
    log_.open(poller, std::move(log), [this](uint32_t) { read(); });
    if (!log_.want(kReadable))
        log_.close();
}

void OomWatch::read() {
    std::array<char, 1024> record;
    for (int records = 0; log_ && records < kRecordsAtOnce; ++records) {
        const ssize_t size = ::read(log_.fd(), record.data(), record.size());
        // EPIPE: some were overwritten before they were read; EINVAL: a long one, which is not
        // ours.
        if (size < 0 && (errno == EPIPE || errno == EINTR || errno == EINVAL))
            continue;
        if (size < 0 && errno == EAGAIN)
            return;
        if (size <= 0)
            return log_.close();
        take_record({record.data(), static_cast<size_t>(size)});
    }
}

// "6,1234,5678901,-;text": the first number is the level, with the facility above it, and 0 is the
// kernel's own: what a program has written there counts for nothing.
void OomWatch::take_record(std::string_view record) {
    unsigned priority = 0;
    const size_t text = record.find(';');
    if (text == std::string_view::npos ||
        std::from_chars(record.data(), record.data() + text, priority).ec != std::errc() ||
        priority >= 8)
        return;
    record.remove_prefix(text + 1);
    const size_t victim = record.find(kVictim);
    const auto begins = [record](std::string_view words) { return record.starts_with(words); };
    pid_t pid = 0;
    if (victim == std::string_view::npos || std::ranges::none_of(kBegins, begins) ||
        std::from_chars(record.data() + victim + kVictim.size(), record.data() + record.size(), pid)
                .ec != std::errc())
        return;
    if (const pid_t session = session_of(pid); session > 0) {
        sessions_.insert(session);
        if (sessions_.size() > kNotesMax)
            sessions_.erase(sessions_.begin());
        return;
    }
    unplaced_.push_back(pid);
    if (unplaced_.size() > kNotesMax)
        unplaced_.pop_front();
}

bool OomWatch::take(pid_t session, int wait_status) {
    read();
    if (sessions_.erase(session) > 0)
        return true;
    // The leader itself may be the one, reaped by now.
    if (std::erase(unplaced_, session) > 0)
        return true;
    if (unplaced_.empty() || !looks_killed(wait_status))
        return false;
    unplaced_.pop_front();
    return true;
}

}  // namespace spore
