#include "agent/command.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>

#include "agent/connection.h"
#include "agent/server.h"

namespace spore {

namespace {

bool is_folder(const std::string& path) {
    struct stat about = {};
    return ::stat(path.c_str(), &about) == 0 && S_ISDIR(about.st_mode);
}

std::string reason(int error) {
    return std::strerror(error);
}

}  // namespace

struct Command::Pipes {
    UniqueFd in, out, err;
};

Command::~Command() {
    if (pid_ < 0)
        return;
    kill_group(SIGKILL);
    server_.remove_command(pid_, *this);
}

Status Command::start(const wire::Exec& request) {
    if (request.pty() != nullptr)
        return fail(Code::host_unsupported, "Exec.pty: is not served by this agent");
    if (request.session() != nullptr)
        return fail(Code::host_unsupported, "Exec.session: is not served by this agent");
    TRY(server_.may_start());
    SpawnPlan plan = TRY(plan_from(request));
    Pipes pipes = TRY(open_pipes(request));
    plan.stdin_fd = pipes.in.get();
    plan.stdout_fd = pipes.out.get();
    plan.stderr_fd = pipes.err.get();
    plan.cgroup_fd = server_.guest().command_cgroup();
    const auto pid = spawn(plan);
    if (pid) {
        started(*pid, request);
        return {};
    }
    using Step = SpawnFailure::Step;
    const auto [step, error] = pid.error();
    if (step == Step::execute && error != E2BIG && error != ENOMEM) {
        start_failed(plan, pid.error());
        return {};
    }
    switch (step) {
        case Step::cwd:
            return fail_errno("cwd '" + plan.cwd + "'", error);
        case Step::user:
            return fail_errno("user '" + std::string(view(request.user())) + "'", error);
        case Step::execute:
            if (error == E2BIG) {
                return fail(Code::invalid_argument, "arguments and environment of '" +
                                                        plan.argv[0] + "': " + reason(error));
            }
            return fail_errno("execute '" + plan.argv[0] + "'", error);
        default:
            return fail_errno("start a process", error);
    }
}

Result<SpawnPlan> Command::plan_from(const wire::Exec& request) const {
    SpawnPlan plan;
    plan.argv = TRY(copy_strings(request.argv(), "argv"));
    if (plan.argv.empty() || plan.argv[0].empty())
        return fail(Code::invalid_argument, "argv: names no program");
    for (const std::string_view field : {view(request.user()), view(request.cwd())}) {
        if (field.find('\0') != std::string_view::npos)
            return fail(Code::invalid_argument, "user and cwd: must have no NUL in them");
    }
    const std::string_view spec = view(request.user());
    auto user = find_user(spec.empty() ? std::to_string(::geteuid()) : std::string(spec));
    if (!user)
        return std::unexpected(std::move(user).error());
    if (!spec.empty())
        plan.user = *user;
    plan.cwd = view(request.cwd());
    if (plan.cwd.empty())
        plan.cwd = is_folder(user->home) ? user->home : "/";

    Environment environment;
    if (!request.env_clear()) {
        environment = server_.guest().environment();
        set_user_variables(environment, *user);
    }
    for (const std::string& assignment : TRY(copy_strings(request.env(), "env")))
        TRY(environment.set(assignment));
    for (const std::string& name : TRY(copy_strings(request.env_unset(), "env_unset")))
        environment.unset(name);
    plan.search_path = environment.get("PATH");
    if (plan.search_path.empty())
        plan.search_path = default_environment().get("PATH");
    plan.environment = environment.assignments();
    return plan;
}

// Leaves the agent's ends in the watches and returns the command's.
Result<Command::Pipes> Command::open_pipes(const wire::Exec& request) {
    Pipes pipes;
    int ends[2] = {-1, -1};
    for (uint8_t fd = 1; fd <= 2; ++fd) {
        if (::pipe2(ends, O_CLOEXEC) != 0)
            return fail_errno("pipe");
        (fd == 1 ? pipes.out : pipes.err) = UniqueFd(ends[1]);
        output(fd).watch.open(server_.poller(), UniqueFd(ends[0]),
                              [this, fd](uint32_t) { read_output(fd); });
        if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0)
            return fail_errno("fcntl of a pipe");
    }
    if (!request.with_stdin()) {
        pipes.in = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        if (!pipes.in)
            return fail_errno("open /dev/null");
        return pipes;
    }
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    pipes.in = UniqueFd(ends[0]);
    stdin_.open(server_.poller(), UniqueFd(ends[1]), [this](uint32_t events) {
        if ((events & EPOLLERR) != 0)
            close_stdin();
        else
            write_stdin();
    });
    if (::fcntl(ends[1], F_SETFL, O_NONBLOCK) != 0)
        return fail_errno("fcntl of a pipe");
    return pipes;
}

void Command::started(pid_t pid, const wire::Exec& request) {
    pid_ = pid;
    std::optional<Server::Clock::time_point> deadline;
    // A timeout beyond any uptime is none, and must not overflow the clock.
    constexpr uint64_t kTimeoutMsMax = 10ull * 365 * 24 * 3600 * 1000;
    if (request.timeout_ms() != 0 && request.timeout_ms() <= kTimeoutMsMax)
        deadline = Server::Clock::now() + std::chrono::milliseconds(request.timeout_ms());
    server_.add_command(pid, *this, deadline);
    output(1).credit = request.stdout_credit();
    output(2).credit = request.stderr_credit();
    stdin_credit_ = request.with_stdin() ? limits::kStdinCreditBytes : 0;
    send(wire::CreateStarted(connection_.buffer(), pid, stdin_credit_));
    if (!stdin_.want(kErrorOnly))
        close_stdin();
    update();
}

void Command::start_failed(const SpawnPlan& plan, const SpawnFailure& failure) {
    // What a shell says: POSIX, Shell Command Language §2.8.2.
    const bool absent = failure.error == ENOENT || failure.error == ENOTDIR;
    const std::string message =
        "'" + plan.argv[0] + "': " +
        (absent && plan.argv[0].find('/') == std::string::npos ? "not found in PATH"
                                                               : reason(failure.error));
    auto& buffer = connection_.buffer();
    finish(wire::CreateStartFailed(buffer, absent ? 127 : 126, failure.error,
                                   buffer.CreateString(message)));
}

void Command::on_exit(int wait_status, const rusage& usage) {
    pid_ = -1;
    exited_ = true;
    wait_status_ = wait_status;
    usage_ = usage;
    stdin_.close();
    stdin_waiting_.clear();
    for (OutputPipe& pipe : outputs_) {
        int available = 0;
        if (pipe.watch && ::ioctl(pipe.watch.fd(), FIONREAD, &available) == 0)
            pipe.remaining = static_cast<size_t>(available);
    }
    update();
    finish_if_drained();
}

void Command::on_timeout() {
    timed_out_ = true;
    kill_group(SIGKILL);
}

void Command::kill_group(int signal) {
    // Until it is reaped its PID, and so the group's ID, belongs to nobody else.
    if (pid_ > 0)
        ::kill(-pid_, signal);
}

void Command::cancel() {
    kill_group(SIGKILL);
    // Nobody takes its output any more, and it must not wait for that.
    for (OutputPipe& pipe : outputs_) {
        if (pipe.watch)
            server_.discard_output(pipe.watch.take());
    }
    finish_if_drained();
}

Status Command::take(const wire::Frame& frame) {
    if (const auto* data = frame.body_as_StdinData())
        return take_stdin(*data);
    if (const auto* credit = frame.body_as_Credit())
        return take_credit(*credit);
    if (const auto* signal = frame.body_as_Signal())
        return take_signal(*signal);
    return Stream::take(frame);
}

Result<std::unique_ptr<Stream>> serve_exec(const Request& request) {
    auto command = std::make_unique<Command>(request.connection, request.server, request.stream);
    TRY(command->start(request.body<wire::Exec>()));
    return command;
}

Status Command::take_signal(const wire::Signal& signal) {
    if (signal.signal() < 1 || signal.signal() >= NSIG) {
        return fail(Code::invalid_argument,
                    "signal " + std::to_string(signal.signal()) + ": must be 1 to 64");
    }
    kill_group(signal.signal());
    return {};
}

}  // namespace spore
