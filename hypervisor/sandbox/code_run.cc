#include "hypervisor/sandbox/code_run.h"

#include <csignal>
#include <nlohmann/json.hpp>
#include <random>

#include "hypervisor/base/base64.h"
#include "hypervisor/sandbox/agent_process.h"

namespace spore {

namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr size_t kCodeBytesMax = 1 * limits::kMiB;
// One answer: all that may be shown in a run, escaped.
constexpr size_t kLineBytesMax = 32 * limits::kMiB;
// What the code may take to end once it is interrupted.
constexpr std::chrono::seconds kGrace{3};

uint64_t random_run_id() {
    std::random_device random;
    // A number of JavaScript is exact to 53 bits.
    return (uint64_t{random()} << 20 | (random() & 0xfffff)) + 1;
}

std::string text_of(const json& document, const char* name) {
    const auto found = document.find(name);
    return found != document.end() && found->is_string() ? found->get<std::string>() : "";
}

// {"text/plain": "42", ...}
RichData data_of(const json& answer) {
    RichData data;
    const auto found = answer.find("data");
    if (found == answer.end() || !found->is_object())
        return data;
    for (const auto& [mime, content] : found->items()) {
        if (content.is_string())
            data.emplace(mime, content.get<std::string>());
    }
    return data;
}

}  // namespace

CodeRun::CodeRun(AgentConnection& connection, uint32_t process, const RunStreams& streams,
                 std::chrono::milliseconds timeout, Deadline deadline)
    : connection_(connection),
      process_(process),
      streams_(streams),
      deadline_(deadline),
      stage_end_(timeout.count() > 0 ? Clock::now() + timeout : Deadline::max()),
      run_id_(random_run_id()),
      input_(connection.open()),
      answers_(connection.open(limits::kFileCreditBytes)) {
    input_.set_deadline(deadline);
    answers_.set_deadline(deadline);
}

Result<RunResult> CodeRun::run(const std::string& code) {
    if (code.size() > kCodeBytesMax) {
        return fail(Code::invalid_argument, "code of " + std::to_string(code.size()) +
                                                " bytes: at most " + std::to_string(kCodeBytesMax));
    }
    const json request = {{"run", run_id_}, {"code", code}};
    // What is no UTF-8 would be another code than the one that was given.
    const std::string line = request.dump(-1, ' ', false, json::error_handler_t::ignore) + "\n";
    const json again = json::parse(line, nullptr, false);
    if (again.is_discarded() || text_of(again, "code") != code)
        return fail(Code::invalid_argument, "code: is no UTF-8");
    TRY(follow());
    TRY(send_code(line));
    return wait_for_end();
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
    while (!status_) {
        const auto* frame = TRY(receive());
        if (frame == nullptr) {
            TRY(go_on_after_timeout());
        } else if (const auto* record = frame->body_as_LogRecord()) {
            TRY(take_record(*record));
            TRY(answers_.consumed(1, answers_.frame_length()));
        } else {
            status_ = "lost";  // Done: the interpreter has ended
        }
    }
    if (stage_ != Stage::running) {
        result_.end = RunResult::End::timed_out;
        result_.context_lost = *status_ == "lost";
    } else if (*status_ == "ok") {
        result_.end = RunResult::End::ok;
    } else if (*status_ == "interrupted") {
        result_.end = RunResult::End::interrupted;
    } else if (*status_ == "lost") {
        result_.end = RunResult::End::lost;
        result_.context_lost = true;
    } else {
        result_.end = RunResult::End::error;
    }
    return std::move(result_);
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
    if (record.dropped() > 0) {
        result_.truncated = true;
        skipping_ = true;
    }
    if (record.fd() != 1)
        return {};
    const auto bytes = view(record.bytes());
    std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    while (!rest.empty() && !status_) {
        const size_t newline = rest.find('\n');
        line_.append(rest.substr(0, newline));
        if (line_.size() > kLineBytesMax)
            return fail(Code::corrupt,
                        "an answer of more than " + std::to_string(kLineBytesMax) + " bytes");
        if (newline == std::string_view::npos)
            return {};
        rest.remove_prefix(newline + 1);
        const std::string line = std::exchange(line_, {});
        if (!std::exchange(skipping_, false))
            TRY(take_line(line));
    }
    return {};
}

Status CodeRun::take_line(std::string_view line) {
    const json answer = json::parse(line, nullptr, false);
    if (!answer.is_object())
        return fail(Code::corrupt, "an answer that is no JSON object");
    const auto run = answer.find("run");
    // Of another run that nobody waits for any more.
    if (run == answer.end() || !run->is_number_unsigned() || run->get<uint64_t>() != run_id_)
        return {};
    return take_answer(text_of(answer, "type"), answer);
}

Status CodeRun::take_answer(const std::string& kind, const json& answer) {
    if (kind == "stdout" || kind == "stderr") {
        const auto& sink = kind == "stdout" ? streams_.on_stdout : streams_.on_stderr;
        if (!sink)
            return {};
        const auto raw = from_base64(text_of(answer, "base64"));
        return sink(answer.contains("base64") && raw ? *raw : text_of(answer, "text"));
    }
    if (kind == "display") {
        result_.displays.push_back(data_of(answer));
        return streams_.on_display ? streams_.on_display(result_.displays.back()) : Status{};
    }
    if (kind == "result") {
        result_.result = data_of(answer);
    } else if (kind == "error") {
        result_.error = ContextError{.name = text_of(answer, "name"),
                                     .value = text_of(answer, "value"),
                                     .traceback = text_of(answer, "traceback")};
    } else if (kind == "end") {
        status_ = text_of(answer, "status");
        const auto cut = answer.find("truncated");
        result_.truncated |= cut != answer.end() && cut->is_boolean() && cut->get<bool>();
    }
    return {};
}

}  // namespace spore
