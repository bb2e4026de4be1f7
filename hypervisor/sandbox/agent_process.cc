#include "hypervisor/sandbox/agent_process.h"

#include <unistd.h>

#include <array>
#include <charconv>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_connection.h"

namespace spore {

namespace {

uint64_t count_ms(std::chrono::milliseconds time) {
    return static_cast<uint64_t>(std::max<int64_t>(time.count(), 0));
}

// The agent has answered with a frame that is none of those due.
std::unexpected<Error> unexpected_frame(AgentStream& stream, const wire::Frame* frame) {
    const std::string got = frame == nullptr ? "nothing" : wire::EnumNameBody(frame->body_type());
    const std::string why = "agent: answered with " + got + ", which was not asked for";
    stream.fail_connection(why);
    return fail(Code::corrupt, why);
}

ProcessStatus status_of(const wire::ProcessInfo& info) {
    ProcessStatus status = {.id = info.id(),
                            .name = std::string(view(info.name())),
                            .pid = info.pid(),
                            .started_ns = info.started_ns(),
                            .ended_ns = info.ended_ns(),
                            .log_bytes = info.log_bytes(),
                            .log_dropped = info.log_dropped()};
    if (info.argv() != nullptr) {
        for (const auto* word : *info.argv())
            status.argv.emplace_back(view(word));
    }
    if (info.exited() != nullptr)
        status.end = exec_result_of(*info.exited());
    return status;
}

// The list of all, or of one.
Result<std::vector<ProcessStatus>> ask_list(AgentConnection& connection, const ProcessName& process,
                                            AgentStream::Deadline deadline) {
    // Every ProcessInfo that there may be, unread.
    AgentStream stream =
        connection.open(limits::kProcessesMax * (limits::kProcessArgvBytesMax + 4 * limits::kKiB));
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(process.name);
    TRY(stream.send(wire::CreateProcessList(buffer, process.id, name)));
    std::vector<ProcessStatus> all;
    while (true) {
        const auto* frame = TRY(stream.receive(deadline));
        const auto* info = frame == nullptr ? nullptr : frame->body_as_ProcessInfo();
        if (info != nullptr)
            all.push_back(status_of(*info));
        else if (frame != nullptr && frame->body_as_Done() != nullptr)
            return all;
        else
            return unexpected_frame(stream, frame);
    }
}

}  // namespace

ProcessName ProcessName::of(std::string_view text) {
    ProcessName process;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), process.id);
    if (error != std::errc() || end != text.data() + text.size() || process.id == 0)
        return {.id = 0, .name = std::string(text)};
    return process;
}

Result<StartedProcess> AgentProcesses::start(const ProcessSpec& spec, Deadline deadline) {
    TRY(check_names(spec.command.environment));
    AgentStream stream = connection_.open();
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto exec = make_exec(buffer, spec.command, spec.with_stdin);
    const auto name = buffer.CreateString(spec.name);
    TRY(stream.send(wire::CreateProcessStart(buffer, exec, name, spec.log_bytes_max)));
    const auto* frame = TRY(stream.receive(deadline));
    if (frame != nullptr && frame->body_as_StartFailed() != nullptr) {
        const auto& failed = *frame->body_as_StartFailed();
        return StartedProcess{.failure = {.end = ExecResult::End::not_started,
                                          .exit_status = failed.exit_status(),
                                          .message = std::string(view(failed.message()))}};
    }
    const auto* started = frame == nullptr ? nullptr : frame->body_as_ProcessStarted();
    if (started == nullptr)
        return unexpected_frame(stream, frame);
    StartedProcess process = {.id = started->id(), .pid = started->pid(), .failure = {}};
    TRY(stream.receive_done(deadline));
    return process;
}

Result<std::vector<ProcessStatus>> AgentProcesses::list(Deadline deadline) {
    return ask_list(connection_, {}, deadline);
}

Result<ProcessStatus> AgentProcesses::show(const ProcessName& process, Deadline deadline) {
    auto found = TRY(ask_list(connection_, process, deadline));
    if (found.empty())
        return fail(Code::not_found, "process '" + process.name + "': there is none");
    return std::move(found.front());
}

Status AgentProcesses::logs(const ProcessName& process, const ProcessLogRequest& request,
                            const std::function<Status(const ProcessOutput&)>& sink,
                            Deadline deadline) {
    AgentStream stream = connection_.open(limits::kOutputCreditBytes);
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(process.name);
    TRY(stream.send(wire::CreateProcessLogs(buffer, process.id, name, request.from, request.follow,
                                            limits::kOutputCreditBytes)));
    while (true) {
        const auto* frame = TRY(stream.receive(deadline));
        const auto* record = frame == nullptr ? nullptr : frame->body_as_LogRecord();
        if (record == nullptr && frame != nullptr && frame->body_as_Done() != nullptr)
            return {};
        if (record == nullptr || (record->fd() != 1 && record->fd() != 2))
            return unexpected_frame(stream, frame);
        TRY(sink({.sequence = record->sequence(),
                  .fd = record->fd(),
                  .time_ns = record->time_ns(),
                  .bytes = view(record->bytes()),
                  .dropped = record->dropped()}));
        TRY(stream.consumed(1, stream.frame_length()));
    }
}

Result<ExecResult> AgentProcesses::wait(const ProcessName& process,
                                        std::chrono::milliseconds timeout, Deadline deadline) {
    AgentStream stream = connection_.open();
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(process.name);
    TRY(stream.send(wire::CreateProcessWait(buffer, process.id, name, count_ms(timeout))));
    const auto* frame = TRY(stream.receive(deadline));
    if (frame == nullptr || frame->body_as_Exited() == nullptr)
        return unexpected_frame(stream, frame);
    return exec_result_of(*frame->body_as_Exited());
}

Status AgentProcesses::signal(const ProcessName& process, int signal, bool descendants,
                              Deadline deadline) {
    AgentStream stream = connection_.open();
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(process.name);
    TRY(stream.send(wire::CreateProcessSignal(buffer, process.id, name, signal, descendants)));
    return stream.receive_done(deadline);
}

Status AgentProcesses::remove(const ProcessName& process, Deadline deadline) {
    AgentStream stream = connection_.open();
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(process.name);
    TRY(stream.send(wire::CreateProcessRemove(buffer, process.id, name)));
    return stream.receive_done(deadline);
}

Result<std::optional<ExecResult>> AgentProcesses::wait_port(const PortQuestion& question,
                                                            Deadline deadline) {
    if (question.status_min < 1 || question.status_max > 999) {
        return fail(Code::invalid_argument, "status " + std::to_string(question.status_min) +
                                                " to " + std::to_string(question.status_max) +
                                                ": must be within 1 to 999");
    }
    AgentStream stream = connection_.open();
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto path = buffer.CreateString(question.path);
    const auto name = buffer.CreateString(question.process.name);
    TRY(stream.send(wire::CreateWaitPort(
        buffer, question.port, question.http ? wire::PortProtocol::http : wire::PortProtocol::tcp,
        path, static_cast<uint16_t>(question.status_min),
        static_cast<uint16_t>(question.status_max), question.process.id, name,
        count_ms(question.timeout))));
    const auto* frame = TRY(stream.receive(deadline));
    if (frame != nullptr && frame->body_as_Done() != nullptr)
        return std::nullopt;
    if (frame == nullptr || frame->body_as_Exited() == nullptr)
        return unexpected_frame(stream, frame);
    return exec_result_of(*frame->body_as_Exited());
}

Result<AgentProcesses::LineOrEnd> AgentProcesses::wait_log(const ProcessName& process,
                                                           const LineQuestion& question,
                                                           Deadline deadline) {
    AgentStream stream = connection_.open();
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(process.name);
    const auto pattern = buffer.CreateVector(
        reinterpret_cast<const uint8_t*>(question.pattern.data()), question.pattern.size());
    TRY(stream.send(wire::CreateWaitLog(buffer, process.id, name, pattern, question.expression,
                                        question.from, count_ms(question.timeout))));
    const auto* frame = TRY(stream.receive(deadline));
    if (frame != nullptr && frame->body_as_Exited() != nullptr)
        return LineOrEnd{.line = {}, .end = exec_result_of(*frame->body_as_Exited())};
    const auto* match = frame == nullptr ? nullptr : frame->body_as_LogMatch();
    if (match == nullptr)
        return unexpected_frame(stream, frame);
    const auto line = view(match->line());
    if (match->begin() > line.size() || match->length() > line.size() - match->begin())
        return unexpected_frame(stream, frame);
    return LineOrEnd{
        .line = LogLine{.line = {reinterpret_cast<const char*>(line.data()), line.size()},
                        .begin = match->begin(),
                        .length = match->length(),
                        .sequence = match->sequence()},
        .end = {}};
}

}  // namespace spore
