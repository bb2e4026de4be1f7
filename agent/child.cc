#include "agent/child.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/file.h"
#include "agent/file_path.h"
#include "agent/system.h"
#include "agent/terminal.h"

namespace spore {

namespace {

std::string reason(int error) {
    return std::strerror(error);
}

// Of the two ends that pipe2(2) gives, the agent's does not block.
Status open_pipe(UniqueFd& read_end, UniqueFd& write_end, const UniqueFd& agents) {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    read_end = UniqueFd(ends[0]);
    write_end = UniqueFd(ends[1]);
    if (::fcntl(agents.get(), F_SETFL, O_NONBLOCK) != 0)
        return fail_errno("fcntl of a pipe");
    return {};
}

std::string out_of_processes() {
    std::string limit =
        read_file(std::string(kCommandCgroup) + "/pids.max").value_or(std::string());
    limit.erase(std::min(limit.find('\n'), limit.size()));
    return "processes at once in this sandbox: there are as many as there may be" +
           (limit.empty() ? std::string() : ", " + limit);
}

}  // namespace

Result<ChildStreams> ChildStreams::open(const wire::Exec& request, const SpawnPlan& plan) {
    if (request.pty() == nullptr)
        return open(request.with_stdin());
    Terminal terminal = TRY(Terminal::open(*request.pty(), plan.user));
    ChildStreams streams;
    streams.terminal = true;
    streams.in = UniqueFd(::fcntl(terminal.master.get(), F_DUPFD_CLOEXEC, 0));
    if (!streams.in)
        return fail_errno("dup of a terminal");
    streams.out = std::move(terminal.master);
    streams.child_in = std::move(terminal.slave);
    return streams;
}

Result<ChildStreams> ChildStreams::open(bool with_stdin) {
    ChildStreams streams;
    TRY(open_pipe(streams.out, streams.child_out, streams.out));
    TRY(open_pipe(streams.err, streams.child_err, streams.err));
    if (with_stdin) {
        TRY(open_pipe(streams.child_in, streams.in, streams.in));
        return streams;
    }
    streams.child_in = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!streams.child_in)
        return fail_errno("open /dev/null");
    return streams;
}

void ChildStreams::give_to(SpawnPlan& plan) const {
    plan.terminal = terminal;
    plan.stdin_fd = child_in.get();
    plan.stdout_fd = terminal ? child_in.get() : child_out.get();
    plan.stderr_fd = terminal ? child_in.get() : child_err.get();
}

Result<SpawnPlan> plan_of(const wire::Exec& request, const Guest& guest) {
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
        environment = guest.environment();
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

Result<flatbuffers::Offset<wire::StartFailed>> start_failed_frame(
    flatbuffers::FlatBufferBuilder& buffer, const SpawnPlan& plan, const SpawnFailure& failure,
    std::string_view user) {
    using Step = SpawnFailure::Step;
    const auto [step, error] = failure;
    const std::string& program = plan.argv[0];
    if (step == Step::cwd)
        return fail_errno("cwd " + quoted(plan.cwd), error);
    if (step == Step::user)
        return fail_errno("user " + quoted(user), error);
    if (step == Step::clone && error == EAGAIN)
        return fail(Code::resource_exhausted, out_of_processes());
    if (step != Step::execute)
        return fail_errno("start a process", error);
    if (error == E2BIG) {
        return fail(Code::invalid_argument,
                    "arguments and environment of " + quoted(program) + ": " + reason(error));
    }
    if (error == ENOMEM)
        return fail_errno("execute " + quoted(program), error);
    // What a shell says: POSIX, Shell Command Language §2.8.2.
    const bool absent = error == ENOENT || error == ENOTDIR;
    const bool searched = program.find('/') == std::string::npos;
    const std::string message =
        quoted(program) + ": " + (absent && searched ? "not found in PATH" : reason(error));
    return wire::CreateStartFailed(buffer, absent ? 127 : 126, error, buffer.CreateString(message));
}

flatbuffers::Offset<wire::Exited> exited_frame(flatbuffers::FlatBufferBuilder& buffer,
                                               const ChildEnd& end) {
    const auto microseconds = [](const timeval& time) {
        return static_cast<uint64_t>(time.tv_sec) * 1'000'000 + static_cast<uint64_t>(time.tv_usec);
    };
    const bool signaled = WIFSIGNALED(end.wait_status);
    return wire::CreateExited(
        buffer, static_cast<uint8_t>(signaled ? 0 : WEXITSTATUS(end.wait_status)),
        static_cast<uint8_t>(signaled ? WTERMSIG(end.wait_status) : 0), end.timed_out,
        microseconds(end.usage.ru_utime) + microseconds(end.usage.ru_stime),
        static_cast<uint64_t>(end.usage.ru_maxrss) * limits::kKiB, end.oom_killed,
        end.session_ended);
}

}  // namespace spore
