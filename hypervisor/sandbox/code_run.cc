#include "hypervisor/sandbox/code_run.h"

#include <csignal>
#include <nlohmann/json.hpp>
#include <random>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_process.h"

namespace spore {

using Clock = std::chrono::steady_clock;

namespace {

using nlohmann::json;

// What the code may take to end once it is interrupted.
constexpr std::chrono::seconds kGrace{3};

uint64_t random_run_id() {
    std::random_device random;
    // A number of JavaScript is exact to 53 bits.
    return (uint64_t{random()} << 20 | (random() & 0xfffff)) + 1;
}

}  // namespace

CodeRun::CodeRun(AgentConnection& connection, uint32_t process, const RunStreams& streams,
                 std::chrono::milliseconds timeout, Deadline deadline)
    : connection_(connection),
      process_(process),
      deadline_(deadline),
      stage_end_(timeout.count() > 0 ? Clock::now() + timeout : Deadline::max()),
      run_id_(random_run_id()),
      heard_(run_id_, streams),
      input_(connection.open()),
      answers_(connection.open(limits::kFileCreditBytes)) {
    input_.set_deadline(deadline);
    answers_.set_deadline(deadline);
}

Result<RunResult> CodeRun::run(const std::string& code) {
    if (code.size() > limits::kContextCodeBytesMax) {
        return fail(Code::invalid_argument, "code of " + std::to_string(code.size()) +
                                                " bytes: at most " +
                                                std::to_string(limits::kContextCodeBytesMax));
    }
    const json request = {{"run", run_id_}, {"code", code}};
    // What is no UTF-8 would be another code than the one that was given.
    const std::string line = request.dump(-1, ' ', false, json::error_handler_t::ignore) + "\n";
    const json again = json::parse(line, nullptr, false);
    if (again.is_discarded() || again["code"] != code)
        return fail(Code::invalid_argument, "code: is no UTF-8");
    TRY(follow());
    TRY(send_code(line));
    auto result = wait_for_end();
    if (!result)
        abandon();
    return result;
}

// Its caller waits no longer. While `input_` stands no other run can be the one that is stopped.
void CodeRun::abandon() {
    const CancelScope uncancelled{std::stop_token()};
    (void)AgentProcesses(connection_)
        .signal({.id = process_, .name = {}}, SIGINT, false, Clock::now() + kGrace);
}

// What is written from now on: the agent serves a connection's frames in their order.
Status CodeRun::follow() {
    return answers_.send(wire::CreateProcessLogs(answers_.buffer(), process_, 0, UINT64_MAX, true,
                                                 limits::kFileCreditBytes));
}

Status CodeRun::send_code(const std::string& line) {
    TRY(input_.send(wire::CreateProcessInput(input_.buffer(), process_)));
    uint32_t credit = 0;
    size_t sent = 0;
    while (sent < line.size()) {
        if (credit == 0) {
            const auto* frame = TRY(input_.receive(deadline_));
            if (frame != nullptr && frame->body_as_InputReady() != nullptr)
                credit = frame->body_as_InputReady()->credit();
            else if (frame != nullptr && frame->body_as_Credit() != nullptr)
                credit = frame->body_as_Credit()->bytes();
            else
                return fail(Code::unavailable, "its interpreter takes no code any more");
            continue;
        }
        const size_t count = std::min<size_t>(
            {credit, line.size() - sent, static_cast<size_t>(limits::kFrameChunkBytes)});
        const auto bytes = input_.buffer().CreateVector(
            reinterpret_cast<const uint8_t*>(line.data() + sent), count);
        TRY(input_.send(wire::CreateStdinData(input_.buffer(), bytes, false)));
        credit -= static_cast<uint32_t>(count);
        sent += count;
    }
    return {};
}

Result<RunResult> CodeRun::wait_for_end() {
    bool lost = false;
    while (!lost && !heard_.status()) {
        const auto* frame = TRY(receive());
        if (frame == nullptr) {
            TRY(go_on_after_timeout());
        } else if (const auto* record = frame->body_as_LogRecord()) {
            TRY(take_record(*record));
            TRY(answers_.consumed(1, answers_.frame_length()));
        } else {
            lost = true;  // Done: the interpreter has ended
        }
    }
    using End = RunResult::End;
    RunResult result = std::move(heard_.result());
    result.context_lost = lost;
    if (stage_ != Stage::running)
        result.end = End::timed_out;
    else if (lost)
        result.end = End::lost;
    else if (*heard_.status() == "interrupted")
        result.end = End::interrupted;
    else
        result.end = *heard_.status() == "ok" ? End::ok : End::error;
    return result;
}

Result<const wire::Frame*> CodeRun::receive() {
    auto frame = answers_.receive(std::min(deadline_, stage_end_));
    if (!frame && frame.error().code == Code::timeout && Clock::now() >= stage_end_)
        return nullptr;
    if (frame && *frame == nullptr)
        return fail(Code::unavailable, "its interpreter has ended");
    return frame;
}

Status CodeRun::go_on_after_timeout() {
    AgentProcesses processes(connection_);
    const ProcessName process{.id = process_, .name = {}};
    if (stage_ == Stage::running) {
        stage_ = Stage::interrupted;
        stage_end_ = Clock::now() + kGrace;
        return processes.signal(process, SIGINT, false, deadline_);
    }
    stage_ = Stage::killed;
    stage_end_ = Deadline::max();
    Status killed = processes.signal(process, SIGKILL, true, deadline_);
    if (!killed && killed.error().code == Code::host_unsupported)
        killed = processes.signal(process, SIGKILL, false, deadline_);
    return killed;
}

Status CodeRun::take_record(const wire::LogRecord& record) {
    if (record.dropped() > 0)
        heard_.lost();
    if (record.fd() != 1)
        return {};
    const auto bytes = view(record.bytes());
    return heard_.take({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace spore
