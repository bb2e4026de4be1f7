#pragma once

// Connections from the host to the guest's own ports (schema/agent.fbs, Guest ports). UNTRUSTED
// BYTES: a line of the host's (forward_line.h), then bytes of both sides, which are passed on and
// never looked at.

#include <list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/poller.h"

namespace spore {

class Server;

// One such connection: its line, the connection to what it names, then bytes both ways.
class Forward {
  public:
    Forward(Server& server, UniqueFd client);
    Forward(const Forward&) = delete;
    Forward& operator=(const Forward&) = delete;

    Status start();
    // It is over: to be destroyed.
    bool done() const { return stage_ == Stage::done; }

  private:
    enum class Stage { line, connecting, passing, done };
    // One of the two directions.
    struct Way {
        std::vector<std::byte> held;  // read and not taken yet; nothing more is read meanwhile
        bool reading = true;
        bool over = false;  // its end has been passed on
    };
    static constexpr int kClient = 0, kTarget = 1;

    Watch& end(int side) { return side == kClient ? client_ : targets_[attempt_]; }
    void on_client(uint32_t events);
    void on_target(uint32_t events);
    void receive_line();
    Status serve_line(std::string_view line);
    Status try_loopback();
    Status connect_unix(std::string_view path);
    Status connect_target(UniqueFd socket, const void* address, uint32_t size);
    Status finish_connecting();
    void refuse(const Error& error);
    void begin_passing();
    void pass(int side, uint32_t events);
    void read_from(int side);
    void send_from(int side, std::span<const std::byte> bytes);
    void end_way(int side);
    void nobody_takes(int side);
    void update();

    Server& server_;
    Watch client_;
    Watch targets_[2];  // one for each attempt: IPv4's, then IPv6's
    int attempt_ = 0;
    Stage stage_ = Stage::line;
    std::string line_;
    std::string what_;  // "port 8080", for messages
    uint16_t port_ = 0;
    int refused_ = 0;  // why the first attempt failed
    Way ways_[2];      // by the side that is read
};

// Their listener, and all of them.
class Forwards {
  public:
    explicit Forwards(Server& server) : server_(server) {}

    // Takes a bound socket.
    Status listen(UniqueFd socket);
    // Destroys those that are over; none of their handlers may run.
    void sweep();

  private:
    void accept();

    Server& server_;
    Watch listener_;
    bool paused_ = false;  // no descriptor was left: until one of them ends
    std::list<Forward> forwards_;
};

}  // namespace spore
