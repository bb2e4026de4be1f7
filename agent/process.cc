#include "agent/process.h"

#include <sys/ioctl.h>
#include <time.h>

#include <csignal>

#include "agent/server.h"
#include "agent/terminal.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// In ns since 1970.
int64_t wall_clock_ns() {
    timespec now = {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// The words, as many as kProcessArgvBytesMax has room for.
std::vector<std::string> shortened(const std::vector<std::string>& argv) {
    std::vector<std::string> words;
    size_t left = limits::kProcessArgvBytesMax;
    for (const std::string& word : argv) {
        if (left < word.size() + sizeof(uint64_t)) {
            words.push_back(word.substr(0, left) + "…");
            break;
        }
        left -= word.size() + sizeof(uint64_t);
        words.push_back(word);
    }
    return words;
}

}  // namespace

Process::Process(Server& server, Options options)
    : server_(server), options_(std::move(options)), log_(options_.log_bytes_max) {}

Process::~Process() {
    for (ProcessObserver* observer : observers_)
        observer->on_forgotten();
    if (pid_ == 0)
        return;
    if (!group_ || !group_->signal(SIGKILL))
        ::kill(-pid_, SIGKILL);
    server_.remove_child(pid_);
}

Result<std::optional<SpawnFailure>> Process::start(const SpawnPlan& plan,
                                                   const wire::Exec& request) {
    ChildStreams streams = TRY(ChildStreams::open(request, plan));
    SpawnPlan complete = plan;
    streams.give_to(complete);
    if (const int parent = server_.guest().command_cgroup(); parent >= 0) {
        group_ = TRY(ControlGroup::create(parent, "process-" + std::to_string(id())));
        grouped_ = true;
        complete.cgroup_fd = group_->fd();
    }
    const auto pid = spawn(complete);
    if (!pid) {
        if (group_)
            group_->remove();
        return pid.error();
    }
    started(*pid, plan, std::move(streams));
    return std::nullopt;
}

void Process::started(pid_t pid, const SpawnPlan& plan, ChildStreams streams) {
    pid_ = pid;
    argv_ = shortened(plan.argv);
    started_ns_ = wall_clock_ns();
    server_.add_child(pid, *this);
    terminal_ = streams.terminal;
    if (terminal_)
        terminal_held_ = std::move(streams.child_in);
    for (uint8_t fd = 1; fd <= 2; ++fd) {
        UniqueFd& end = fd == 1 ? streams.out : streams.err;
        if (!end)  // a terminal's output is one
            continue;
        Watch& watch = output(fd).watch;
        watch.open(server_.poller(), std::move(end), [this, fd](uint32_t) { read_output(fd); });
        if (!watch.want(kReadable))
            watch.close();
    }
    if (!streams.in)
        return;
    stdin_.open(server_.poller(), std::move(streams.in), terminal_);
    stdin_.start();
}

// Whatever it writes is taken at once: a process never waits for those who read its log.
bool Process::read_output(uint8_t fd) {
    Output& from = output(fd);
    const auto scratch = server_.scratch().first(limits::kLogRecordBytesMax);
    const size_t left = from.remaining.value_or(0);
    // Up to the end of its own life first, so that no record is on both sides of that.
    const size_t room = left == 0 ? scratch.size() : std::min(scratch.size(), left);
    const ssize_t count = ::read(from.watch.fd(), scratch.data(), room);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (count <= 0) {  // EIO from a terminal that nobody has open
        from.watch.close();
    } else {
        log_.append(fd, scratch.first(static_cast<size_t>(count)), wall_clock_ns());
        if (left > 0)
            *from.remaining -= static_cast<size_t>(count);
    }
    changed();
    return count > 0;
}

// What waits before a terminal's line discipline is in no count: read until there is none.
void Process::drain_terminal() {
    size_t reads = kTerminalBytesMax / limits::kLogRecordBytesMax;
    while (reads-- > 0 && output(1).watch && read_output(1)) {
    }
}

void Process::resize(uint16_t rows, uint16_t columns) {
    if (terminal_ && output(1).watch)
        set_window_size(output(1).watch.fd(), rows, columns);
}

void Process::on_exit(int wait_status, const rusage& usage) {
    end_.oom_killed = server_.oom().take(std::exchange(pid_, 0), wait_status);
    ended_ns_ = wall_clock_ns();
    end_.wait_status = wait_status;
    end_.usage = usage;
    stdin_.end();
    terminal_held_.reset();
    if (terminal_)
        drain_terminal();
    exited_ = true;
    for (Output& each : outputs_) {
        int available = 0;
        if (each.watch && !terminal_)
            ::ioctl(each.watch.fd(), FIONREAD, &available);
        each.remaining = static_cast<size_t>(available);
    }
    if (group_ && group_->remove())
        group_.reset();
    changed();
}

void Process::changed() {
    if (ended() && !std::exchange(end_told_, true))
        end_sequence_ = log_.next_sequence();
    for (size_t i = 0; i < observers_.size(); ++i)
        observers_[i]->on_change();
}

Status Process::signal(int signal) const {
    if (pid_ == 0) {
        return fail(Code::unavailable, "process " + std::to_string(id()) + ": has ended");
    }
    // Until it is reaped its PID, and so the group's ID, belongs to nobody else.
    if (::kill(-pid_, signal) != 0)
        return fail_errno("signal process " + std::to_string(id()));
    return {};
}

Status Process::signal_descendants(int signal) {
    if (!grouped_) {
        return fail(Code::host_unsupported,
                    "process " + std::to_string(id()) +
                        ": has no control group (cgroup2), so its descendants are not known");
    }
    if (!group_)
        return {};  // nobody is left
    TRY(group_->signal(signal));
    return {};
}

std::optional<ControlGroup> Process::take_group() {
    if (group_ && group_->remove())
        group_.reset();
    return std::exchange(group_, std::nullopt);
}

flatbuffers::Offset<wire::ProcessInfo> Process::info(flatbuffers::FlatBufferBuilder& buffer) const {
    const auto name = buffer.CreateString(options_.name);
    const auto argv = buffer.CreateVectorOfStrings(argv_);
    flatbuffers::Offset<wire::Exited> exited;
    if (ended())
        exited = exited_frame(buffer, end_);
    return wire::CreateProcessInfo(
        buffer, id(), name, pid_, ended() ? wire::ProcessState::ended : wire::ProcessState::running,
        argv, started_ns_, ended_ns_, exited, log_.bytes_kept(), log_.bytes_dropped());
}

}  // namespace spore
