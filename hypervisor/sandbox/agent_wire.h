#pragma once

// Inside AgentClient: frames on its socket, with deadlines.

#include <poll.h>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_client.h"
#include "schema/frame.h"

namespace spore {

class AgentClient::Wire {
  public:
    explicit Wire(UniqueFd socket) : socket_(std::move(socket)) {}

    // Says Hello and keeps the answer.
    Status greet(Deadline deadline);
    // Goes on with a connection that has been greeted by somebody else. `line` precedes all frames.
    void take_over(const AgentCarried& carried, std::string_view line);

    // Builds one request in buffer(), sends it on a stream of its own and waits for its one answer,
    // which is alive until the next call. An Error from the agent is returned as one.
    template <typename Body>
    Result<const wire::Frame*> ask(flatbuffers::Offset<Body> body, Deadline deadline) {
        const uint32_t stream = open_stream();
        TRY(send(stream, body));
        return answer(stream, deadline);
    }

    flatbuffers::FlatBufferBuilder& buffer() { return builder_.buffer(); }
    uint32_t open_stream() { return ++last_stream_; }
    uint32_t last_stream() const { return last_stream_; }
    // Queues a frame, to be written by `turn`. Error invalid_argument: above the limit of a frame.
    template <typename Body>
    Status send(uint32_t stream, flatbuffers::Offset<Body> body) {
        return send(stream, wire::BodyTraits<Body>::enum_value, body.Union());
    }
    Status send(uint32_t stream, wire::Body type, flatbuffers::Offset<void> body) {
        const Status queued = queue(builder_.finish(stream, type, body));
        builder_.reset();
        return queued;
    }
    // Writes what is queued, as far as the socket takes it.
    Status write();
    // So much waits to be written that no more data should be added.
    bool full() const { return out_.size() - out_sent_ >= limits::kFrameChunkBytes; }

    // Waits until the socket can be read or written, or one of `others` is ready (their revents are
    // set), and moves bytes. Error timeout at the deadline, unavailable when the agent is gone.
    Status turn(Deadline deadline, std::span<pollfd> others = {});
    // The next frame of that stream that is here, nullptr if none; others are passed over.
    Result<const wire::Frame*> next(uint32_t stream);
    // Waits for it.
    Result<const wire::Frame*> answer(uint32_t stream, Deadline deadline);

    // Ends the connection; `why` is what later calls fail with.
    void close(std::string why);
    bool broken() const { return !socket_; }
    // Gives the connection away, with what has been received and what is still to be written.
    void release(UniqueFd& socket, FrameReader& received, std::vector<std::byte>& unsent);
    // Error unavailable if the connection has ended.
    Status usable() const;

    AgentInfo info;
    uint32_t host_port = 0;
    uint32_t identity_stream = 0;  // of send_identity, until it is confirmed
    Deadline identity_sent;
    uint32_t limits_stream = 0;  // of limits sent behind it; 0: none

  private:
    Status queue(std::span<const std::byte> frame);
    Status read();

    UniqueFd socket_;
    std::string why_closed_;
    FrameReader reader_;
    FrameBuilder builder_;
    std::vector<std::byte> out_;
    size_t out_sent_ = 0;
    uint32_t last_stream_ = 0;
};

// What poll(2) is to wait at most, in ms; nothing if the deadline is over.
std::optional<int> poll_ms_until(AgentClient::Deadline deadline);

// The error that an Error frame carries.
Error error_of(const wire::Error& error);

}  // namespace spore
