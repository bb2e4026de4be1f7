// Requests about processes that are answered at once, or in a few turns.

#include <csignal>

#include "agent/process_streams.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// A ProcessInfo for each.
class ListStream final : public Stream {
  public:
    explicit ListStream(const Request& request)
        : Stream(request.connection, request.server, request.stream) {
        want_turn();
    }

  private:
    bool turn() override {
        for (size_t sent = 0; sent < limits::kFrameChunkBytes;) {
            const Process* process = server_.processes().from(next_);
            if (process == nullptr) {
                finish(wire::CreateDone(connection_.buffer()));
                return false;
            }
            next_ = process->id() + 1;
            sent += send(process->info(connection_.buffer()));
        }
        return true;
    }

    uint32_t next_ = 1;
};

}  // namespace

Result<std::unique_ptr<Stream>> serve_process_start(const Request& request) {
    const auto& start = request.body<wire::ProcessStart>();
    const wire::Exec& exec = *start.exec();
    if (exec.session() != nullptr)
        return fail(Code::invalid_argument, "ProcessStart: a session's line is no process");
    TRY(request.server.may_start());
    const SpawnPlan plan = TRY(plan_of(exec, request.server.guest()));
    const auto started = TRY(request.server.processes().start(plan, start));
    auto& buffer = request.connection.buffer();
    if (started.process == nullptr) {
        request.connection.send(
            request.stream,
            TRY(start_failed_frame(buffer, plan, started.failure, view(exec.user()))));
        return nullptr;
    }
    request.connection.send(
        request.stream,
        wire::CreateProcessStarted(buffer, started.process->id(), started.process->pid()));
    request.answer({});
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_process_list(const Request& request) {
    const auto& list = request.body<wire::ProcessList>();
    if (list.id() == 0 && view(list.name()).empty())
        return std::make_unique<ListStream>(request);
    const Process* process = TRY(named_process(request.server.processes(), list));
    request.connection.send(request.stream, process->info(request.connection.buffer()));
    request.answer({});
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_process_signal(const Request& request) {
    const auto& signal = request.body<wire::ProcessSignal>();
    Process* process = TRY(named_process(request.server.processes(), signal));
    if (signal.signal() < 1 || signal.signal() >= NSIG) {
        return fail(Code::invalid_argument,
                    "signal " + std::to_string(signal.signal()) + ": must be 1 to 64");
    }
    request.answer(signal.descendants() ? process->signal_descendants(signal.signal())
                                        : process->signal(signal.signal()));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_process_remove(const Request& request) {
    const auto& remove = request.body<wire::ProcessRemove>();
    Process* process = TRY(named_process(request.server.processes(), remove));
    request.answer(request.server.processes().remove(*process));
    return nullptr;
}

}  // namespace spore
