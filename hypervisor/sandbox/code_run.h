#pragma once

// Inside CodeContexts: one run.

#include <nlohmann/json_fwd.hpp>

#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/code_context.h"

namespace spore {

// Two streams: on one the code goes in, which keeps the context for us, on the other what is
// answered. UNTRUSTED BYTES: answers are a guest's; they are read as JSON of any shape.
class CodeRun {
  public:
    using Deadline = AgentClient::Deadline;

    CodeRun(AgentConnection& connection, uint32_t process, const RunStreams& streams,
            std::chrono::milliseconds timeout, Deadline deadline);

    Result<RunResult> run(const std::string& code);

  private:
    Status follow();
    Status send_code(const std::string& code);
    Result<RunResult> wait_for_end();
    // The next frame of the answers; nullptr: the time of this stage is over.
    Result<const wire::Frame*> receive();
    Status go_on_after_timeout();
    Status take_record(const wire::LogRecord& record);
    Status take_line(std::string_view line);
    Status take_answer(const std::string& kind, const nlohmann::json& answer);
    Status take_text(const RunStreams& streams, bool error, const nlohmann::json& answer);

    AgentConnection& connection_;
    uint32_t process_;
    const RunStreams& streams_;
    Deadline deadline_;
    Deadline stage_end_;  // of the code's own time, then of what it has to take the interrupt
    enum class Stage { running, interrupted, killed } stage_ = Stage::running;
    uint64_t run_id_;
    AgentStream input_, answers_;
    std::string line_;       // as far as it has come
    bool skipping_ = false;  // its begin was lost
    std::optional<std::string> status_;
    RunResult result_;
};

}  // namespace spore
