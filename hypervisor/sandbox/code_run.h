#pragma once

// Inside CodeContexts: one run.

#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/code_answers.h"

namespace spore {

// Two streams: on one the code goes in, which keeps the context for us, on the other what is
// answered.
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
    void abandon();
    // The next frame of the answers; nullptr: the time of this stage is over.
    Result<const wire::Frame*> receive();
    Status go_on_after_timeout();
    Status take_record(const wire::LogRecord& record);

    AgentConnection& connection_;
    uint32_t process_;
    Deadline deadline_;
    Deadline stage_end_;  // of the code's own time, then of what it has to take the interrupt
    enum class Stage { running, interrupted, killed } stage_ = Stage::running;
    uint64_t run_id_;
    CodeAnswers heard_;
    AgentStream input_, answers_;
};

}  // namespace spore
