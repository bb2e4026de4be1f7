#pragma once

// Inside AgentClient and AgentConnection: one command on one stream.

#include "hypervisor/sandbox/agent_wire.h"

namespace spore {

// "NAME=value" of each.
std::vector<std::string> assignments_of(
    const std::vector<std::pair<std::string, std::string>>& variables);

// Error invalid_argument: a '=' in a name.
Status check_names(const std::vector<std::pair<std::string, std::string>>& variables);

// What a request asks for, with the credit of both outputs.
flatbuffers::Offset<wire::Exec> make_exec(flatbuffers::FlatBufferBuilder& buffer,
                                          const ExecRequest& request, bool with_stdin);

ExecResult exec_result_of(const wire::Exited& exited);

// One stream, whatever connection it is on.
class AgentChannel {
  public:
    virtual ~AgentChannel() = default;

    virtual flatbuffers::FlatBufferBuilder& buffer() = 0;
    template <typename Body>
    Status send(flatbuffers::Offset<Body> body) {
        return send_frame(wire::BodyTraits<Body>::enum_value, body.Union());
    }
    virtual Status send_frame(wire::Body type, flatbuffers::Offset<void> body) = 0;
    // So much waits to be written that no more data should be added.
    virtual bool full() const = 0;
    // The next frame of it that is here, alive until the next call; nullptr if none is.
    virtual Result<const wire::Frame*> next() = 0;
    // Waits until `next` may have one, or one of `others` is ready (their revents are set). Errors:
    // timeout, and the connection's.
    virtual Status wait(AgentClient::Deadline deadline, std::span<pollfd> others) = 0;
    // The version that is spoken.
    virtual uint16_t protocol() const = 0;
    // The peer breaks the protocol.
    virtual void fail_connection(std::string why) = 0;
};

// A stream of an AgentClient.
class WireChannel : public AgentChannel {
  public:
    explicit WireChannel(AgentClient::Wire& wire) : wire_(wire), stream_(wire.open_stream()) {}

    flatbuffers::FlatBufferBuilder& buffer() override { return wire_.buffer(); }
    Status send_frame(wire::Body type, flatbuffers::Offset<void> body) override {
        return wire_.send(stream_, type, body);
    }
    bool full() const override { return wire_.full(); }
    Result<const wire::Frame*> next() override { return wire_.next(stream_); }
    Status wait(AgentClient::Deadline deadline, std::span<pollfd> others) override {
        return wire_.turn(deadline, others);
    }
    uint16_t protocol() const override { return wire_.info.protocol; }
    void fail_connection(std::string why) override { wire_.close(std::move(why)); }

  private:
    AgentClient::Wire& wire_;
    uint32_t stream_;
};

class ExecStream {
  public:
    ExecStream(AgentChannel& channel, const ExecStreams& streams, AgentClient::Deadline deadline)
        : channel_(channel), streams_(streams), deadline_(deadline) {}

    Result<ExecResult> run(const ExecRequest& request);

  private:
    Status check(const ExecRequest& request) const;
    Status send_request(const ExecRequest& request);
    Status wait();
    Status take_orders();
    Status send_signal(int number);
    Status feed_stdin();
    // Nothing, or the command's end.
    Result<std::optional<ExecResult>> take(const wire::Frame& frame);
    Status take_output(const wire::Output& output);

    AgentChannel& channel_;
    const ExecStreams& streams_;
    AgentClient::Deadline deadline_;
    bool started_ = false;
    bool has_terminal_ = false;
    bool stdin_open_ = false;
    uint32_t stdin_credit_ = 0;
    // Passed on to the sinks and not yet granted again.
    uint32_t taken_[2] = {0, 0};
    std::optional<Error> sink_error_;
};

}  // namespace spore
