#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "agent/poller.h"
#include "hypervisor/base/agent_limits.h"
#include "schema/frame.h"

namespace spore {

class Server;
class Stream;

// One client: its frames in and out and the streams that it has opened. UNTRUSTED BYTES arrive
// here and are read through FrameReader alone; whatever they hold, at worst this connection ends.
class Connection {
  public:
    Connection(Server& server, UniqueFd socket);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection();

    Status start();

    // It has ended: the server is to destroy it.
    bool dead() const { return dead_; }
    // So much waits for the client to read that nothing may be added but answers.
    bool congested() const { return backlog_.size() - backlog_sent_ > limits::kAgentBacklogBytes; }
    // The socket takes nothing more just now: what is sent would be copied to be kept. Data that
    // can be had at any time waits until it does.
    bool full() const { return !backlog_.empty(); }

    // Sends a frame whose parts have been made in buffer(); what the socket does not take now is
    // kept. Without effect on a dead connection. Returns the frame's length field.
    flatbuffers::FlatBufferBuilder& buffer() { return builder_.buffer(); }
    template <typename Body>
    size_t send(uint32_t stream, flatbuffers::Offset<Body> body) {
        const auto frame = builder_.finish(stream, body);
        const size_t length = frame.size() - sizeof(uint32_t);
        write(frame);
        builder_.reset();
        return length;
    }
    void send_error(uint32_t stream, const Error& error);

    // Takes a stream of it, until that is done.
    void keep(std::unique_ptr<Stream> stream);
    // Destroys streams that are done.
    void sweep();

  private:
    void on_ready(uint32_t events);
    void receive();
    void serve_frames();
    Status serve(const wire::Frame& frame);
    Status serve_hello(const wire::Frame& frame);
    Status serve_request(const wire::Frame& frame);
    // What goes on with it; nothing if it has been answered.
    Result<std::unique_ptr<Stream>> open_stream(const wire::Frame& frame);
    void write(std::span<const std::byte> frame);
    void flush();
    void resume();
    void watch_socket();
    void end(const Error& error);

    Server& server_;
    Watch socket_;
    FrameReader reader_;
    FrameBuilder builder_;
    std::vector<std::byte> backlog_;
    size_t backlog_sent_ = 0;
    uint16_t version_ = 0;  // of the protocol, agreed on; 0 before Hello
    bool dead_ = false;
    std::unordered_map<uint32_t, std::unique_ptr<Stream>> streams_;
};

}  // namespace spore
