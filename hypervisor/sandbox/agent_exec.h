#pragma once

// Inside AgentClient: one command on one stream.

#include "hypervisor/sandbox/agent_wire.h"

namespace spore {

// "NAME=value" of each.
std::vector<std::string> assignments_of(
    const std::vector<std::pair<std::string, std::string>>& variables);

class ExecStream {
  public:
    ExecStream(AgentClient::Wire& wire, const ExecStreams& streams, AgentClient::Deadline deadline)
        : wire_(wire), streams_(streams), deadline_(deadline), stream_(wire.open_stream()) {}

    Result<ExecResult> run(const ExecRequest& request);

  private:
    Status send_request(const ExecRequest& request);
    Status wait();
    Status take_orders();
    Status send_signal(int number);
    Status feed_stdin();
    // Nothing, or the command's end.
    Result<std::optional<ExecResult>> take(const wire::Frame& frame);
    Status take_output(const wire::Output& output);

    AgentClient::Wire& wire_;
    const ExecStreams& streams_;
    AgentClient::Deadline deadline_;
    uint32_t stream_;
    bool started_ = false;
    bool stdin_open_ = false;
    uint32_t stdin_credit_ = 0;
    // Passed on to the sinks and not yet granted again.
    uint32_t taken_[2] = {0, 0};
    std::optional<Error> sink_error_;
};

}  // namespace spore
