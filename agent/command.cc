#include "agent/command.h"

#include <csignal>

#include "agent/connection.h"
#include "agent/process_table.h"
#include "agent/sessions.h"

namespace spore {

Command::~Command() {
    if (pid_ < 0)
        return;
    kill(SIGKILL);
    server_.remove_child(pid_);
}

Status Command::start(const wire::Exec& request) {
    TRY(server_.may_start());
    SpawnPlan plan = TRY(plan_of(request, server_.guest()));
    ChildStreams streams = TRY(ChildStreams::open(request, plan));
    streams.give_to(plan);
    plan.cgroup_fd = server_.guest().command_cgroup();
    const auto pid = spawn(plan);
    if (!pid) {
        finish(
            TRY(start_failed_frame(connection_.buffer(), plan, pid.error(), view(request.user()))));
        return {};
    }
    pid_ = *pid;
    has_terminal_ = streams.terminal;
    server_.add_child(pid_, *this);
    watch(streams);
    start_timeout(request.timeout_ms());
    started(pid_, request.stdout_credit(), request.stderr_credit());
    return {};
}

void Command::on_exit(int wait_status, const rusage& usage) {
    const bool oom_killed = server_.oom().take(std::exchange(pid_, -1), wait_status);
    ended({.wait_status = wait_status, .usage = usage, .oom_killed = oom_killed});
}

void Command::kill(int signal) {
    // Until it is reaped its PID, and so the group's and the session's ID, belongs to nobody else.
    if (pid_ < 0)
        return;
    ::kill(-pid_, signal);
    // A shell with job control has made groups for what it runs.
    if (has_terminal_ && signal == SIGKILL)
        signal_session(pid_, SIGKILL);
}

Result<std::unique_ptr<Stream>> serve_exec(const Request& request) {
    const auto& exec = request.body<wire::Exec>();
    if (exec.session() != nullptr)
        return serve_session_line(request);
    auto command = std::make_unique<Command>(request.connection, request.server, request.stream);
    TRY(command->start(exec));
    return command;
}

}  // namespace spore
