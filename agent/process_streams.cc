// Logs, waits and stdin of processes: what watches one for a while.

#include "agent/process_streams.h"

#include "agent/timer.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

ProcessStream::ProcessStream(const Request& request, Process* process)
    : Stream(request.connection, request.server, request.stream), process_(process) {
    if (process_ != nullptr)
        process_->observe(*this);
}

ProcessStream::~ProcessStream() {
    if (process_ != nullptr)
        process_->forget(*this);
}

void ProcessStream::on_forgotten() {
    const std::string id = std::to_string(process_->id());
    process_ = nullptr;
    if (!done())
        finish(Error{Code::unavailable, "process " + id + ": was removed"});
}

void ProcessStream::finish_with_end() {
    finish(exited_frame(connection_.buffer(), process_->end()));
}

namespace {

// ---- ProcessLogs

class LogsStream final : public ProcessStream {
  public:
    LogsStream(const Request& request, Process& process)
        : ProcessStream(request, &process),
          cursor_(request.body<wire::ProcessLogs>().from() == UINT64_MAX
                      ? process.log().next_sequence()  // from now on
                      : request.body<wire::ProcessLogs>().from()),
          credit_(request.body<wire::ProcessLogs>().credit()),
          follow_(request.body<wire::ProcessLogs>().follow()),
          until_(process.log().next_sequence()) {
        want_turn();
    }

    Status take(const wire::Frame& frame) override {
        const auto* credit = frame.body_as_Credit();
        if (credit == nullptr || credit->fd() != 1)
            return Stream::take(frame);
        credit_.add(credit->bytes());
        want_turn();
        return {};
    }
    void cancel() override { finish(wire::CreateDone(connection_.buffer())); }
    void on_change() override { want_turn(); }

  private:
    bool turn() override;
    void send_record(const ProcessLog::Record& record);
    // All that was asked for has been sent.
    bool complete() const {
        if (follow_ && !process_->ended())
            return false;
        return cursor_.next() >= std::max(until_, process_->end_sequence());
    }

    LogCursor cursor_;
    SendCredit credit_;
    bool follow_;
    uint64_t until_;  // the log's end when it was asked for
    size_t sent_ = 0;
};

bool LogsStream::turn() {
    for (sent_ = 0; !complete();) {
        const auto* record = cursor_.peek(process_->log());
        // Without follow what is to come is not waited for, though it was kept for a while.
        if (record == nullptr && follow_ && !process_->ended())
            return false;
        if (record == nullptr)
            break;
        if (credit_.left() == 0)
            return false;
        if (sent_ >= limits::kFrameChunkBytes)
            return true;
        send_record(*record);
    }
    finish(wire::CreateDone(connection_.buffer()));
    return false;
}

void LogsStream::send_record(const ProcessLog::Record& record) {
    const uint64_t dropped = cursor_.pass(record);
    auto& buffer = connection_.buffer();
    const auto bytes = buffer.CreateVector(reinterpret_cast<const uint8_t*>(record.bytes.data()),
                                           record.bytes.size());
    const size_t length = send(
        wire::CreateLogRecord(buffer, record.sequence, record.fd, record.time_ns, bytes, dropped));
    credit_.spend(length);
    sent_ += length;
}

// ---- ProcessWait

class EndStream final : public ProcessStream {
  public:
    EndStream(const Request& request, Process& process) : ProcessStream(request, &process) {
        timeout_.set_timeout_ms(request.body<wire::ProcessWait>().timeout_ms());
    }
    void on_change() override {
        if (!done() && process_->ended())
            finish_with_end();
    }

  private:
    Timer timeout_{server_.timers(), [this] {
                       if (!done())
                           finish(Error{Code::timeout, "process " + std::to_string(process_->id()) +
                                                           ": still runs"});
                   }};
};

// ---- ProcessInput

class InputStream final : public ProcessStream {
  public:
    InputStream(const Request& request, Process& process) : ProcessStream(request, &process) {
        process.input().listen(
            {.granted =
                 [this](uint32_t bytes) {
                     send(wire::CreateCredit(connection_.buffer(), 0, bytes));
                 },
             .closed =
                 [this] {
                     send(wire::CreateStdinClosed(connection_.buffer()));
                     finish(wire::CreateDone(connection_.buffer()));
                 },
             .finished = [this] { finish(wire::CreateDone(connection_.buffer())); }});
        send(wire::CreateInputReady(connection_.buffer(), process.input().grant_anew()));
    }
    ~InputStream() override {
        if (process_ != nullptr && !done())
            process_->input().listen({});
    }

    Status take(const wire::Frame& frame) override {
        if (const auto* data = frame.body_as_StdinData())
            return process_->input().take(*data);
        if (const auto* size = frame.body_as_WindowSize()) {
            process_->resize(size->rows(), size->columns());
            return {};
        }
        return Stream::take(frame);
    }
    void cancel() override {
        process_->input().listen({});
        finish(wire::CreateDone(connection_.buffer()));
    }
};

}  // namespace

Result<std::unique_ptr<Stream>> serve_process_logs(const Request& request) {
    Process* process =
        TRY(named_process(request.server.processes(), request.body<wire::ProcessLogs>()));
    return std::make_unique<LogsStream>(request, *process);
}

Result<std::unique_ptr<Stream>> serve_process_wait(const Request& request) {
    Process* process =
        TRY(named_process(request.server.processes(), request.body<wire::ProcessWait>()));
    auto stream = std::make_unique<EndStream>(request, *process);
    stream->on_change();
    return stream;
}

Result<std::unique_ptr<Stream>> serve_process_input(const Request& request) {
    Process* process =
        TRY(named_process(request.server.processes(), request.body<wire::ProcessInput>()));
    const std::string what = "stdin of process " + std::to_string(process->id());
    if (!process->input() || process->input().ended())
        return fail(Code::unavailable, what + ": is closed");
    if (process->input().listened())
        return fail(Code::unavailable, what + ": another client has it");
    return std::make_unique<InputStream>(request, *process);
}

}  // namespace spore
