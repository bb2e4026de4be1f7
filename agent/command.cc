#include "agent/command.h"

#include <sys/ioctl.h>

#include <csignal>

#include "agent/connection.h"

namespace spore {

Command::~Command() {
    if (pid_ < 0)
        return;
    kill_group(SIGKILL);
    server_.remove_child(pid_);
}

Status Command::start(const wire::Exec& request) {
    if (request.pty() != nullptr)
        return fail(Code::host_unsupported, "Exec.pty: is not served by this agent");
    if (request.session() != nullptr)
        return fail(Code::host_unsupported, "Exec.session: is not served by this agent");
    TRY(server_.may_start());
    SpawnPlan plan = TRY(plan_of(request, server_.guest()));
    ChildStreams streams = TRY(ChildStreams::open(request.with_stdin()));
    streams.give_to(plan);
    plan.cgroup_fd = server_.guest().command_cgroup();
    const auto pid = spawn(plan);
    if (!pid) {
        finish(
            TRY(start_failed_frame(connection_.buffer(), plan, pid.error(), view(request.user()))));
        return {};
    }
    watch(streams);
    started(*pid, request);
    return {};
}

void Command::watch(ChildStreams& streams) {
    for (uint8_t fd = 1; fd <= 2; ++fd) {
        output(fd).watch.open(server_.poller(), std::move(fd == 1 ? streams.out : streams.err),
                              [this, fd](uint32_t) { read_output(fd); });
    }
    if (!streams.in)
        return;
    stdin_.open(server_.poller(), std::move(streams.in));
    stdin_.listen(
        {.granted =
             [this](uint32_t bytes) { send(wire::CreateCredit(connection_.buffer(), 0, bytes)); },
         .closed = [this] { send(wire::CreateStdinClosed(connection_.buffer())); }});
}

void Command::started(pid_t pid, const wire::Exec& request) {
    pid_ = pid;
    server_.add_child(pid, *this);
    timeout_.set_timeout_ms(request.timeout_ms());
    output(1).credit = request.stdout_credit();
    output(2).credit = request.stderr_credit();
    send(wire::CreateStarted(connection_.buffer(), pid, stdin_ ? stdin_.credit() : 0));
    if (stdin_)
        stdin_.start();
    update();
}

void Command::on_exit(int wait_status, const rusage& usage) {
    pid_ = -1;
    exited_ = true;
    end_.wait_status = wait_status;
    end_.usage = usage;
    timeout_.clear();
    stdin_.close();
    for (OutputPipe& pipe : outputs_) {
        int available = 0;
        if (pipe.watch && ::ioctl(pipe.watch.fd(), FIONREAD, &available) == 0)
            pipe.remaining = static_cast<size_t>(available);
    }
    update();
    finish_if_drained();
}

void Command::on_timeout() {
    end_.timed_out = true;
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
        return stdin_.take(*data);
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
