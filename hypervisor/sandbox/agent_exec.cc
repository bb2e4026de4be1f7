#include "hypervisor/sandbox/agent_exec.h"
#include "hypervisor/base/agent_limits.h"

#include <sys/eventfd.h>

#include <array>
#include <bit>
#include <csignal>

namespace spore {

Result<std::unique_ptr<ExecControl>> ExecControl::create() {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event)
        return fail_errno("eventfd");
    return std::unique_ptr<ExecControl>(new ExecControl(std::move(event)));
}

void ExecControl::signal(int number) {
    if (number < 1 || number > 63)
        return;
    signals_.fetch_or(uint64_t{1} << number);
    ::eventfd_write(event_.get(), 1);
}

void ExecControl::cancel() {
    signal(SIGKILL);
}

void ExecControl::resize(TerminalSize size) {
    size_.store(uint64_t{size.rows} << 32 | uint64_t{size.columns} << 16 | 1);
    ::eventfd_write(event_.get(), 1);
}

std::vector<std::string> assignments_of(
    const std::vector<std::pair<std::string, std::string>>& variables) {
    std::vector<std::string> assignments;
    assignments.reserve(variables.size());
    for (const auto& [name, value] : variables)
        assignments.push_back(name + "=" + value);
    return assignments;
}

Status check_names(const std::vector<std::pair<std::string, std::string>>& variables) {
    for (const auto& [name, value] : variables) {
        if (name.find('=') != std::string::npos)
            return fail(Code::invalid_argument,
                        "environment variable '" + name + "': must have no '=' in its name");
    }
    return {};
}

flatbuffers::Offset<wire::Exec> make_exec(flatbuffers::FlatBufferBuilder& buffer,
                                          const ExecRequest& request, bool with_stdin) {
    const auto argv = buffer.CreateVectorOfStrings(request.argv);
    const auto environment = buffer.CreateVectorOfStrings(assignments_of(request.environment));
    const auto unset = buffer.CreateVectorOfStrings(request.unset);
    const auto cwd = buffer.CreateString(request.cwd);
    const auto user = buffer.CreateString(request.user);
    flatbuffers::Offset<wire::Pty> pty;
    if (request.pty)
        pty = wire::CreatePty(buffer, request.pty->rows, request.pty->columns);
    flatbuffers::Offset<flatbuffers::String> session;
    if (!request.session.empty())
        session = buffer.CreateString(request.session);
    return wire::CreateExec(buffer, argv, environment, unset, request.clear_environment, cwd, user,
                            with_stdin,
                            static_cast<uint64_t>(std::max<int64_t>(request.timeout.count(), 0)),
                            limits::kOutputCreditBytes, limits::kOutputCreditBytes, pty, session);
}

ExecResult exec_result_of(const wire::Exited& exited) {
    ExecResult result = {.signal = exited.signal(),
                         .cpu_us = exited.cpu_us(),
                         .peak_memory_bytes = exited.peak_memory_bytes(),
                         .oom_killed = exited.oom_killed(),
                         .session_ended = exited.session_ended()};
    if (exited.timed_out()) {
        result.end = ExecResult::End::timed_out;
        result.exit_status = 124;
    } else if (result.signal != 0) {
        result.end = ExecResult::End::signaled;
        result.exit_status = 128 + result.signal;
    } else {
        result.exit_status = exited.exit_status();
    }
    return result;
}

Result<ExecResult> ExecStream::run(const ExecRequest& request) {
    has_terminal_ = request.pty.has_value();
    TRY(send_request(request));
    while (true) {
        const auto* frame = TRY(channel_.next());
        if (frame == nullptr) {
            TRY(wait());
            continue;
        }
        auto end = TRY(take(*frame));
        if (end && sink_error_)
            return std::unexpected(std::move(*sink_error_));
        if (end)
            return std::move(*end);
    }
}

// What an older agent would pass over is not asked of it.
Status ExecStream::check(const ExecRequest& request) const {
    TRY(check_names(request.environment));
    constexpr uint16_t kTerminalProtocol = 3;  // schema/agent.fbs
    if ((request.pty || !request.session.empty()) && channel_.protocol() < kTerminalProtocol) {
        return fail(Code::host_unsupported,
                    "terminals and sessions: need protocol version 3, and this sandbox's agent "
                    "speaks " +
                        std::to_string(channel_.protocol()));
    }
    return {};
}

Status ExecStream::send_request(const ExecRequest& request) {
    TRY(check(request));
    stdin_open_ = streams_.stdin_fd >= 0;
    return channel_.send(make_exec(channel_.buffer(), request, stdin_open_));
}

// For the agent, for stdin while it may be sent, for orders once there is a command to get them.
Status ExecStream::wait() {
    std::array<pollfd, 2> others = {pollfd{-1, POLLIN, 0}, pollfd{-1, POLLIN, 0}};
    if (stdin_open_ && stdin_credit_ > 0 && !channel_.full())
        others[0].fd = streams_.stdin_fd;
    if (started_ && streams_.control != nullptr)
        others[1].fd = streams_.control->event_.get();
    TRY(channel_.wait(deadline_, others));
    if (others[1].revents != 0)
        TRY(take_orders());
    if (others[0].revents != 0)
        TRY(feed_stdin());
    return {};
}

Status ExecStream::take_orders() {
    eventfd_t ignored = 0;
    ::eventfd_read(streams_.control->event_.get(), &ignored);
    uint64_t signals = streams_.control->signals_.exchange(0);
    while (signals != 0) {
        const int number = std::countr_zero(signals);
        signals &= signals - 1;
        TRY(send_signal(number));
    }
    const uint64_t size = streams_.control->size_.exchange(0);
    if (size == 0 || !has_terminal_)  // to a command without one it is not to be sent
        return {};
    return channel_.send(wire::CreateWindowSize(
        channel_.buffer(), static_cast<uint16_t>(size >> 32), static_cast<uint16_t>(size >> 16)));
}

Status ExecStream::send_signal(int number) {
    return channel_.send(wire::CreateSignal(channel_.buffer(), number));
}

Status ExecStream::feed_stdin() {
    std::array<uint8_t, limits::kFrameChunkBytes> chunk;
    const size_t room = std::min<size_t>(chunk.size(), stdin_credit_);
    const ssize_t count = ::read(streams_.stdin_fd, chunk.data(), room);
    if (count < 0 && (errno == EINTR || errno == EAGAIN))
        return {};
    auto& buffer = channel_.buffer();
    if (count <= 0) {
        // To the command both are the end: what has been read is all there is.
        stdin_open_ = false;
        return channel_.send(wire::CreateStdinData(buffer, 0, true));
    }
    stdin_credit_ -= static_cast<uint32_t>(count);
    const auto bytes = buffer.CreateVector(chunk.data(), static_cast<size_t>(count));
    return channel_.send(wire::CreateStdinData(buffer, bytes, false));
}

Result<std::optional<ExecResult>> ExecStream::take(const wire::Frame& frame) {
    if (const auto* output = frame.body_as_Output()) {
        TRY(take_output(*output));
    } else if (const auto* credit = frame.body_as_Credit()) {
        stdin_credit_ += credit->bytes();
    } else if (const auto* started = frame.body_as_Started()) {
        started_ = true;
        stdin_credit_ = started->stdin_credit();
        if (streams_.on_started)
            streams_.on_started(started->pid());
    } else if (frame.body_as_StdinClosed() != nullptr) {
        stdin_open_ = false;
    } else if (const auto* exited = frame.body_as_Exited()) {
        return exec_result_of(*exited);
    } else if (const auto* failed = frame.body_as_StartFailed()) {
        return ExecResult{.end = ExecResult::End::not_started,
                          .exit_status = failed->exit_status(),
                          .message = std::string(view(failed->message()))};
    } else if (const auto* error = frame.body_as_Error()) {
        return std::unexpected(error_of(*error));
    }
    return std::nullopt;
}

Status ExecStream::take_output(const wire::Output& output) {
    if (output.fd() != 1 && output.fd() != 2) {
        channel_.fail_connection("agent: sent output of neither stdout nor stderr");
        return fail(Code::corrupt, "agent: output of descriptor " + std::to_string(output.fd()));
    }
    const auto bytes = view(output.bytes());
    const auto& sink = output.fd() == 1 ? streams_.on_stdout : streams_.on_stderr;
    if (sink && !sink_error_) {
        if (Status taken = sink(bytes); !taken) {
            sink_error_ = std::move(taken).error();
            TRY(send_signal(SIGKILL));
        }
    }
    uint32_t& taken = taken_[output.fd() - 1];
    taken += static_cast<uint32_t>(bytes.size());
    // In portions: fewer frames, and the agent never runs dry.
    if (taken < limits::kOutputCreditBytes / 2)
        return {};
    TRY(channel_.send(wire::CreateCredit(channel_.buffer(), output.fd(), taken)));
    taken = 0;
    return {};
}

}  // namespace spore
