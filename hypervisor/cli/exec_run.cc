#include "hypervisor/cli/exec_run.h"

#include <poll.h>
#include <unistd.h>

#include <cstdlib>

#include "hypervisor/cli/terminal.h"
#include "hypervisor/sandbox/exec_capture.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::cli {

namespace {

using Clock = std::chrono::steady_clock;

bool write_all(int fd, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        ssize_t written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0 && errno == EAGAIN) {  // whoever shares it with us wants it so
            pollfd writable = {fd, POLLOUT, 0};
            ::poll(&writable, 1, -1);
            continue;
        }
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return true;
}

ExecStreams::Sink pass_on(int fd, const char* name) {
    return [fd, name](std::span<const std::byte> bytes) -> Status {
        if (!write_all(fd, bytes))
            return fail_errno(name);
        return {};
    };
}

void adopt_terminal(ExecRequest& request) {
    if (const auto size = terminal_size())
        request.pty = *size;
    const char* kind = std::getenv("TERM");
    const bool given = std::ranges::any_of(request.environment,
                                           [](const auto& each) { return each.first == "TERM"; });
    if (kind != nullptr && *kind != '\0' && !given)
        request.environment.emplace_back("TERM", kind);
}

// While our terminal is raw nothing else is printed on it.
Result<ExecResult> exec_on_terminal(AgentClient& agent, const ExecRun& run, ExecStreams streams) {
    auto control = TRY(ExecControl::create());
    streams.control = control.get();
    ResizeForwarding resizing(*control);
    std::unique_ptr<RawTerminal> raw;
    if (run.with_stdin && ::isatty(STDIN_FILENO) != 0)
        raw = TRY(RawTerminal::enter());
    return agent.exec(run.request, streams, Clock::time_point::max());
}

void tell_end(const ExecResult& result, const ExecRequest& request) {
    if (result.end == ExecResult::End::not_started)
        std::fprintf(stderr, "spore: command: %s\n", result.message.c_str());
    if (result.end == ExecResult::End::timed_out)
        std::fprintf(stderr, "spore: command: timed out after %lld ms\n",
                     static_cast<long long>(request.timeout.count()));
    if (result.oom_killed)
        std::fprintf(stderr,
                     "spore: command: the sandbox was out of memory, and a process of it was "
                     "killed\n");
    if (result.session_ended)
        std::fprintf(stderr,
                     "spore: session '%s': its shell has ended; the next line starts another\n",
                     request.session.c_str());
}

void print_result(const ExecResult& result, const ExecCapture& capture, Clock::duration took) {
    print_json(
        {{"exit_status", result.exit_status},
         {"signal", result.signal},
         {"timed_out", result.end == ExecResult::End::timed_out},
         {"oom_killed", result.oom_killed},
         {"session_ended", result.session_ended},
         {"stdout", capture.out().bytes},
         {"stderr", capture.err().bytes},
         {"stdout_bytes", capture.out().total},
         {"stderr_bytes", capture.err().total},
         {"truncated", capture.out().truncated() || capture.err().truncated()},
         {"cpu_us", result.cpu_us},
         {"peak_memory_bytes", result.peak_memory_bytes},
         {"duration_us", std::chrono::duration_cast<std::chrono::microseconds>(took).count()}});
}

Status run_to_its_end(Context& context, ExecRun& run) {
    auto home = TRY(Home::open());
    auto sandbox = TRY(find_sandbox(home, run.id));
    if (!sandbox.alive)
        return fail(Code::unavailable,
                    "sandbox '" + run.id + "': its VM has ended; restart or destroy it");
    auto begun = Clock::now();
    auto agent = TRY(connect_agent(run_directory(home, run.id), begun + std::chrono::seconds(20)));
    ExecCapture capture;  // with --json; what is above its bound is counted, not kept
    ExecStreams streams = context.globals.json ? capture.streams() : ExecStreams{};
    if (!context.globals.json) {
        streams.on_stdout = pass_on(STDOUT_FILENO, "standard output");
        streams.on_stderr = pass_on(STDERR_FILENO, "standard error");
    }
    if (run.with_stdin)
        streams.stdin_fd = STDIN_FILENO;
    if (run.request.pty)
        adopt_terminal(run.request);
    auto result = TRY(run.request.pty ? exec_on_terminal(agent, run, streams)
                                      : agent.exec(run.request, streams, Clock::time_point::max()));
    context.exit_status = result.exit_status;
    tell_end(result, run.request);
    if (context.globals.json)
        print_result(result, capture, Clock::now() - begun);
    return {};
}

}  // namespace

void run_in_sandbox(Context& context, ExecRun run) {
    if (Status status = run_to_its_end(context, run); !status) {
        report(context.globals, status.error());
        context.exit_status = kExitSpore;
    }
}

}  // namespace spore::cli
