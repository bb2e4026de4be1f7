#pragma once

// Many requests at once to one guest's agent, over one connection (schema/agent.fbs). Internal:
// what a program sees of it has no FlatBuffers in it.

#include <poll.h>

#include <memory>
#include <stop_token>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_exec.h"

namespace spore {

class AgentConnection;

// While it lives, the streams that this thread opens are cancelled when a stop is requested: for
// callers of functions that open streams of their own. Scopes nest.
class CancelScope {
  public:
    explicit CancelScope(std::stop_token stop);
    ~CancelScope();
    CancelScope(const CancelScope&) = delete;
    CancelScope& operator=(const CancelScope&) = delete;

  private:
    std::stop_token stop_, outer_;
};

// One request under way on an AgentConnection. One thread may receive while another sends and any
// others cancel. Ended before its last frame has come, it is cancelled in the guest too.
class AgentStream : public AgentChannel {
  public:
    using Deadline = AgentClient::Deadline;

    AgentStream(AgentStream&&) noexcept = default;
    AgentStream& operator=(AgentStream&&) = delete;
    ~AgentStream() override;

    // ---- Sending: frames are built in buffer(), the request first. `send` (AgentChannel) gives
    // a frame to the socket or copies it to a queue for it; a large one, and where that is long, it
    // waits until `deadline` of the last set_deadline. Errors: invalid_argument (too large),
    // host_unsupported (newer than what the agent speaks), timeout, unavailable.
    flatbuffers::FlatBufferBuilder& buffer() override { return builder_.buffer(); }
    Status send_frame(wire::Body type, flatbuffers::Offset<void> body) override;
    void set_deadline(Deadline deadline) { deadline_ = deadline; }

    // ---- Receiving

    // Waits for the next frame, which is alive until the next call; after the last one nullptr. An
    // Error frame is returned as one. Errors also: timeout (the stream can be waited for again),
    // unavailable (cancelled here, or the connection has ended).
    Result<const wire::Frame*> receive(Deadline deadline);
    // Waits for Done. Errors as receive; corrupt if something else comes, which ends the
    // connection.
    Status receive_done(Deadline deadline);
    // Bytes of flow `fd` have been used, of data or (items) the frame's length: grants them again,
    // in portions of half the window.
    Status consumed(uint8_t fd, size_t bytes);
    // The length field of the frame that was received last: what a frame of items costs.
    size_t frame_length() const { return current_.size() - sizeof(uint32_t); }
    // Whether its last frame has been received.
    bool ended() const { return ended_; }

    // Makes it end: `receive` fails with unavailable from now on. Thread-safe.
    void cancel();

    // ---- AgentChannel: the same without waiting, for who waits for other descriptors too.
    Result<const wire::Frame*> next() override;
    Status wait(Deadline deadline, std::span<pollfd> others) override;
    bool full() const override;
    uint16_t protocol() const override;
    void fail_connection(std::string why) override;

  private:
    friend class AgentConnection;
    struct Slot;
    struct Hub;

    AgentStream(std::shared_ptr<Hub> hub, std::shared_ptr<Slot> slot);

    std::shared_ptr<Hub> hub_;
    std::shared_ptr<Slot> slot_;
    FrameBuilder builder_;
    Deadline deadline_ = Deadline::max();
    std::unique_ptr<std::stop_callback<std::function<void()>>> stop_;  // of a CancelScope
    std::vector<std::byte> current_;
    size_t used_[3] = {0, 0, 0};
    bool ended_ = false;
};

// The connection: thread-safe, and with no thread of its own. Whoever waits for an answer while
// nobody else does reads the socket for all (leader and followers), so a request that is alone
// costs what it costs AgentClient. A stream that nobody reads holds up no other: it has what it
// granted, and the agent sends no more.
class AgentConnection {
  public:
    using Deadline = AgentClient::Deadline;

    // Goes on with a client's connection, one that is not broken and waits for no confirmation.
    static Result<std::shared_ptr<AgentConnection>> over(AgentClient client);
    // As AgentClient::connect.
    static Result<std::shared_ptr<AgentConnection>> connect(const std::filesystem::path& socket,
                                                            uint32_t port, Deadline deadline);
    // Every stream's receive fails with unavailable from then on.
    ~AgentConnection();
    AgentConnection(const AgentConnection&) = delete;
    AgentConnection& operator=(const AgentConnection&) = delete;

    const AgentInfo& info() const;
    bool broken() const;
    // Ends it for all.
    void close();

    // A stream to send one request on. `window`: what the request grants at first of the agent's
    // data, of each flow. An agent that sends more is disconnected.
    AgentStream open(size_t window = limits::kFileCreditBytes);

    // As AgentClient::exec; a deadline that is over ends this command alone.
    Result<ExecResult> exec(const ExecRequest& request, const ExecStreams& streams,
                            Deadline deadline);
    // The defaults of every command from here on. `unset` after `set`.
    Status set_environment(const std::vector<std::pair<std::string, std::string>>& set,
                           const std::vector<std::string>& unset, Deadline deadline);
    Status ping(Deadline deadline);

  private:
    explicit AgentConnection(std::shared_ptr<AgentStream::Hub> hub);
    std::shared_ptr<AgentStream::Hub> hub_;
};

}  // namespace spore
