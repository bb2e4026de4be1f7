#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "agent/command.h"
#include "agent/poller.h"
#include "schema/frame.h"

namespace spore {

class Server;

// One client: its frames in and out and the commands that it has started. UNTRUSTED BYTES arrive
// here and are read through FrameReader alone; whatever they hold, at worst this connection ends.
class Connection {
  public:
    Connection(Server& server, UniqueFd socket);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    Status start();

    // It has ended: the server is to destroy it.
    bool dead() const { return dead_; }
    // So much waits for the client to read that nothing may be added but answers.
    bool congested() const { return backlog_.size() - backlog_sent_ > limits::kAgentBacklogBytes; }

    // Sends a frame whose parts have been made in buffer(); what the socket does not take now is
    // kept. Without effect on a dead connection.
    flatbuffers::FlatBufferBuilder& buffer() { return builder_.buffer(); }
    template <typename Body>
    void send(uint32_t stream, flatbuffers::Offset<Body> body) {
        write(builder_.finish(stream, body));
        builder_.reset();
    }
    void send_error(uint32_t stream, const Error& error);
    void send_done(uint32_t stream);

    // Destroys commands that are done.
    void sweep();

  private:
    void on_ready(uint32_t events);
    void receive();
    void serve_frames();
    Status serve(const wire::Frame& frame);
    Status serve_hello(const wire::Frame& frame);
    Status serve_request(const wire::Frame& frame);
    Status serve_data(const wire::Frame& frame, Command& command);
    void serve_exec(uint32_t stream, const wire::Exec& request);
    void answer(uint32_t stream, const Status& status);
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
    bool greeted_ = false;
    bool dead_ = false;
    std::unordered_map<uint32_t, std::unique_ptr<Command>> commands_;
};

}  // namespace spore
