#include "agent/session.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <climits>
#include <csignal>

#include "agent/file.h"
#include "agent/server.h"
#include "agent/session_line.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// What every shell reads first. `$2` is where it goes back to behind a line with a cwd of its own.
constexpr std::string_view kPrelude =
    "_spore_end() { unset -f command; case ${2-} in ?*) \\command cd -- \"$2\";; esac; "
    "\\command printf 'e%s\\n' \"$1\" >&7; }\n";
static_assert(kControlFd == 7, "as the scripts have it");

constexpr uint64_t kTickUs = 1'000'000 / kTicksPerSecond;
constexpr size_t kControlBytesMax = 4096;  // a shell that babbles there is none

std::vector<uint8_t> start_request(const wire::SessionCreate& request, const std::string& shell,
                                   const std::vector<std::string>& env,
                                   const std::vector<std::string>& unset) {
    flatbuffers::FlatBufferBuilder buffer;
    const auto argv = buffer.CreateVectorOfStrings(std::vector<std::string>{shell, "-s"});
    const auto env_words = buffer.CreateVectorOfStrings(env);
    const auto unset_words = buffer.CreateVectorOfStrings(unset);
    const auto cwd = buffer.CreateString(std::string(view(request.cwd())));
    const auto user = buffer.CreateString(std::string(view(request.user())));
    buffer.Finish(wire::CreateExec(buffer, argv, env_words, unset_words, false, cwd, user));
    return {buffer.GetBufferPointer(), buffer.GetBufferPointer() + buffer.GetSize()};
}

}  // namespace

Session::Session(Server& server, uint64_t serial, std::string directory)
    : server_(server), serial_(serial), directory_(std::move(directory)) {}

Session::~Session() {
    const Error gone{Code::not_found, "session '" + name_ + "': has been deleted"};
    for (SessionLine* line : waiting_)
        line->fail_with(gone);
    (void)take_group();
    if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        signal_session(pid_, SIGKILL);
        server_.remove_child(pid_);
    }
    if (current_ != nullptr)
        end_current({.wait_status = SIGKILL, .session_ended = true});
}

std::optional<ControlGroup> Session::take_group() {
    if (group_)
        (void)group_->signal(SIGKILL);  // what fails it is killed by its session then
    return std::exchange(group_, std::nullopt);
}

Status Session::open(const wire::SessionCreate& request) {
    name_ = view(request.name());
    user_ = view(request.user());
    shell_ = view(request.shell());
    if (shell_.empty())
        shell_ = "/bin/sh";
    if (shell_.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, "shell: must have no NUL in it");
    const auto env = TRY(copy_strings(request.env(), "env"));
    const auto unset = TRY(copy_strings(request.env_unset(), "env_unset"));
    size_t bytes = 0;
    for (const auto& list : {env, unset}) {
        for (const std::string& word : list)
            bytes += word.size();
    }
    if (bytes > limits::kSessionEnvironmentBytesMax) {
        return fail(Code::invalid_argument,
                    "environment of a session of " + std::to_string(bytes) +
                        " bytes: must be at most " +
                        std::to_string(limits::kSessionEnvironmentBytesMax));
    }
    start_ = start_request(request, shell_, env, unset);
    if (const int parent = server_.guest().command_cgroup(); parent >= 0)
        group_ = TRY(ControlGroup::create(parent, "session-" + std::to_string(serial_)));
    return start_shell();
}

Status Session::start_shell() {
    TRY(server_.may_start());
    const auto& request = *flatbuffers::GetRoot<wire::Exec>(start_.data());
    SpawnPlan plan = TRY(plan_of(request, server_.guest()));
    as_ = plan.user;
    // Where the last line was, if that is still there.
    if (!cwd_.empty() && is_folder(cwd_))
        plan.cwd = cwd_;
    int script[2] = {-1, -1}, control[2] = {-1, -1};
    if (::pipe2(script, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    UniqueFd script_read(script[0]), script_write(script[1]);
    if (::pipe2(control, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    UniqueFd control_read(control[0]), control_write(control[1]);
    UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    if (!null || ::fcntl(script[1], F_SETFL, O_NONBLOCK) != 0 ||
        ::fcntl(control[0], F_SETFL, O_NONBLOCK) != 0)
        return fail_errno("streams of a session's shell");
    plan.stdin_fd = script_read.get();
    plan.stdout_fd = plan.stderr_fd = null.get();
    plan.control_fd = control_write.get();
    plan.cgroup_fd = group_ ? group_->fd() : server_.guest().command_cgroup();
    const auto pid = spawn(plan);
    if (!pid) {
        flatbuffers::FlatBufferBuilder buffer;
        const auto failed = TRY(start_failed_frame(buffer, plan, pid.error(), user_));
        return fail(Code::not_found,
                    "shell " + flatbuffers::GetTemporaryPointer(buffer, failed)->message()->str());
    }
    pid_ = *pid;
    killed_ = false;
    cwd_ = plan.cwd;
    server_.add_child(pid_, *this);
    script_waiting_ = kPrelude;
    script_.open(server_.poller(), std::move(script_write), [this](uint32_t) { write_script(); });
    control_read_.clear();
    control_.open(server_.poller(), std::move(control_read), [this](uint32_t) {
        read_control();
        begin_next();
    });
    TRY(control_.want(kReadable));
    write_script();
    return {};
}

void Session::add(SessionLine& line) {
    waiting_.push_back(&line);
    begin_next();
}

void Session::begin_next() {
    while (current_ == nullptr && !killed_ && !waiting_.empty()) {
        SessionLine& line = *waiting_.front();
        waiting_.pop_front();
        if (const Status begun = begin(line); !begun)
            line.fail_with(begun.error());
    }
}

Status Session::begin(SessionLine& line) {
    if (pid_ < 0)
        TRY(start_shell());
    const std::string name = std::to_string(serial_) + "-" + std::to_string(++lines_);
    TRY(line.open_files(directory_, name, as_));
    current_ = &line;
    begun_ = false;
    begin_ = ProcessMoment::now();
    cpu_before_us_ = cpu_ticks_of_shell() * kTickUs;
    script_waiting_ += line.script(cwd_);
    write_script();
    return {};
}

void Session::write_script() {
    while (script_ && !script_waiting_.empty()) {
        const ssize_t count = ::write(script_.fd(), script_waiting_.data(), script_waiting_.size());
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            break;  // it takes no more now, or never more: then its end is reported
        script_waiting_.erase(0, static_cast<size_t>(count));
    }
    if (!script_.want(script_waiting_.empty() ? 0 : kWritable))
        script_.close();
}

void Session::read_control() {
    std::array<char, 512> bytes;
    while (control_) {
        const ssize_t count = ::read(control_.fd(), bytes.data(), bytes.size());
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0) {
            if (count == 0 || errno != EAGAIN)
                control_.close();
            break;
        }
        control_read_.append(bytes.data(), static_cast<size_t>(count));
        if (control_read_.size() > kControlBytesMax)
            control_read_.clear();
    }
    size_t end = 0;
    while ((end = control_read_.find('\n')) != std::string::npos) {
        const std::string word = control_read_.substr(0, end);
        control_read_.erase(0, end + 1);
        take_word(word);
    }
}

// "s": the line's streams are open. "e3": it is through, with status 3.
void Session::take_word(std::string_view word) {
    if (current_ == nullptr || killed_)
        return;
    if (word == "s" && !begun_) {
        begun_ = true;
        current_->begun(pid_);
        return;
    }
    int status = 0;
    if (!word.starts_with('e') ||
        std::from_chars(word.data() + 1, word.data() + word.size(), status).ec != std::errc())
        return;
    cwd_ = directory_of_shell();
    if (!begun_) {
        std::exchange(current_, nullptr)
            ->fail_with({Code::resource_exhausted,
                         "session '" + name_ + "': its shell cannot open the line's streams"});
        return;
    }
    const int wait_status = (status & 0xff) << 8;
    end_current({.wait_status = wait_status,
                 .usage = usage_since(cpu_ticks_of_shell() * kTickUs),
                 .oom_killed = server_.oom().take(pid_, wait_status)});
}

// The shell's CPU time, less what it had when the line began.
rusage Session::usage_since(uint64_t cpu_us) const {
    const uint64_t us = cpu_us - std::min(cpu_us, cpu_before_us_);
    rusage usage = {};
    usage.ru_utime.tv_sec = static_cast<time_t>(us / 1'000'000);
    usage.ru_utime.tv_usec = static_cast<suseconds_t>(us % 1'000'000);
    return usage;
}

void Session::end_current(ChildEnd end) {
    std::exchange(current_, nullptr)->end_with(end);
}

void Session::on_exit(int wait_status, const rusage& usage) {
    read_control();  // what it has said before
    const bool oom_killed = server_.oom().take(std::exchange(pid_, -1), wait_status);
    killed_ = false;
    script_.close();
    control_.close();
    script_waiting_.clear();
    const auto microseconds = [](const timeval& time) {
        return static_cast<uint64_t>(time.tv_sec) * 1'000'000 + static_cast<uint64_t>(time.tv_usec);
    };
    if (current_ != nullptr && (begun_ || current_->timed_out())) {
        rusage own = usage_since(microseconds(usage.ru_utime) + microseconds(usage.ru_stime));
        own.ru_maxrss = usage.ru_maxrss;
        end_current({.wait_status = wait_status,
                     .usage = own,
                     .oom_killed = oom_killed,
                     .session_ended = true});
    } else if (current_ != nullptr) {
        std::exchange(current_, nullptr)
            ->fail_with({Code::unavailable, "session '" + name_ +
                                                "': its shell ended before the line began; the "
                                                "next one starts another"});
    }
    begin_next();
}

void Session::leave(SessionLine& line) {
    std::erase(waiting_, &line);
    if (current_ == &line)
        current_ = nullptr;
    begin_next();
}

void Session::signal_line(SessionLine& line, int signal) {
    if (current_ != &line || pid_ < 0)
        return;
    if (signal == SIGKILL) {
        if (!line.has_own_cwd())
            cwd_ = directory_of_shell();
        killed_ = true;
    }
    ::kill(pid_, signal);
    signal_session(pid_, signal, begin_);
}

std::string Session::directory_of_shell() const {
    char path[PATH_MAX];
    const ssize_t size = pid_ < 0 ? -1
                                  : ::readlink(("/proc/" + std::to_string(pid_) + "/cwd").c_str(),
                                               path, sizeof(path));
    return size < 0 ? cwd_ : std::string(path, static_cast<size_t>(size));
}

uint64_t Session::cpu_ticks_of_shell() const {
    const auto facts = look_up(pid_);
    return facts ? facts->cpu_ticks : 0;
}

size_t Session::bytes_waiting() const {
    size_t bytes = 0;
    for (const SessionLine* line : waiting_)
        bytes += line->bytes();
    return bytes;
}

flatbuffers::Offset<wire::SessionInfo> Session::info(flatbuffers::FlatBufferBuilder& buffer) const {
    const auto name = buffer.CreateString(name_);
    const auto cwd = buffer.CreateString(current_ == nullptr ? directory_of_shell() : cwd_);
    const auto user = buffer.CreateString(user_);
    const auto shell = buffer.CreateString(shell_);
    return wire::CreateSessionInfo(buffer, name, cwd, user, shell, std::max(pid_, 0),
                                   current_ != nullptr);
}

}  // namespace spore
