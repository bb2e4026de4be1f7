#include <spore/command.h>
#include <sys/mman.h>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"

namespace spore {
inline namespace v1 {

namespace {

TerminalSize size_of(const Command::Terminal& terminal) {
    return {.rows = terminal.rows, .columns = terminal.columns};
}

}  // namespace

ExecRequest request_of(const Command& command) {
    return {.argv = command.argv,
            .environment = {command.environment.begin(), command.environment.end()},
            .unset = command.unset,
            .clear_environment = command.clear_environment,
            .cwd = command.cwd,
            .user = command.user,
            .timeout = command.timeout,
            .pty = command.terminal ? std::optional(size_of(*command.terminal)) : std::nullopt};
}

ExecStreams streams_of(const Streams& streams) {
    return {.on_stdout = streams.out,
            .on_stderr = streams.err,
            .on_started = streams.started,
            .control = streams.control ? streams.control->impl()->control.get() : nullptr};
}

Result<UniqueFd> give_input(const Command& command, ExecStreams& streams) {
    UniqueFd input;
    if (command.input && command.input_fd >= 0)
        return fail(Code::invalid_argument, "command: has both input and input_fd");
    if (command.input)
        input = TRY(file_of(*command.input));
    streams.stdin_fd = input ? input.get() : command.input_fd;
    return input;
}

Result<CommandControl> CommandControl::create() {
    return guarded([]() -> Result<CommandControl> {
        return CommandControl(std::make_shared<const Impl>(Impl{TRY(ExecControl::create())}));
    });
}

void CommandControl::signal(int number) const {
    impl_->control->signal(number);
}

void CommandControl::resize(const Command::Terminal& size) const {
    impl_->control->resize(size_of(size));
}

Exit exit_of(ExecResult&& result) {
    Exit exit;
    switch (result.end) {
        case ExecResult::End::exited:
            exit.kind = Exit::Kind::exited;
            break;
        case ExecResult::End::signaled:
            exit.kind = Exit::Kind::signaled;
            break;
        case ExecResult::End::timed_out:
            exit.kind = Exit::Kind::timed_out;
            break;
        case ExecResult::End::not_started:
            exit.kind = Exit::Kind::not_started;
            break;
    }
    exit.status = result.exit_status;
    exit.signal = result.signal;
    exit.message = std::move(result.message);
    exit.cpu = std::chrono::microseconds(result.cpu_us);
    exit.peak_memory_bytes = result.peak_memory_bytes;
    exit.oom_killed = result.oom_killed;
    exit.session_ended = result.session_ended;
    return exit;
}

Captured captured_of(Exit&& exit, const ExecCapture& kept) {
    return {.exit = std::move(exit),
            .out = kept.out().bytes,
            .err = kept.err().bytes,
            .out_bytes = kept.out().total,
            .err_bytes = kept.err().total};
}

Result<UniqueFd> file_of(std::string_view bytes) {
    UniqueFd fd(::memfd_create("spore-input", MFD_CLOEXEC));
    if (!fd)
        return fail_errno("standard input");
    for (size_t written = 0; written < bytes.size();) {
        const ssize_t count = ::pwrite(fd.get(), bytes.data() + written, bytes.size() - written,
                                       static_cast<off_t>(written));
        if (count < 0 && errno != EINTR)
            return fail_errno("standard input");
        written += count < 0 ? 0 : static_cast<size_t>(count);
    }
    return fd;
}

}  // namespace v1
}  // namespace spore
