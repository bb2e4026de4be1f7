#pragma once

#include <array>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "agent/connection.h"
#include "agent/forward.h"
#include "agent/guest.h"
#include "agent/oom_watch.h"
#include "agent/poller.h"
#include "agent/processes.h"
#include "agent/sessions.h"
#include "agent/timer.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

class Child;

constexpr int kListenBacklog = 128;

// The agent: listens, serves every client in one thread, and reaps every child, its own commands
// and (as PID 1) orphans alike.
class Server {
  public:
    // Blocks the signals that it serves in the calling thread, which must be the only one.
    static Result<std::unique_ptr<Server>> create(System& system);
    ~Server();

    // On vsock ports kAgentPort and kAgentForwardPort.
    Status listen_vsock();
    // At `path`, and for forwards at `path` + ".forward".
    Status listen_unix(const std::string& path);

    // Serves until a signal or a client asks for the end (`stop_signals` in server.cc).
    Status run();
    // One wait of it (none if there is work) and all that this brings.
    Status run_once();

    // ---- For connections and commands

    Guest& guest() { return guest_; }
    Poller& poller() { return poller_; }
    Timers& timers() { return timers_; }
    OomWatch& oom() { return oom_; }
    Processes& processes() { return processes_; }
    Sessions& sessions() { return sessions_; }
    // Ends `run` once the answer is out. Errors: the system does not allow it.
    Status request_power_off();
    // Bytes on their way from a pipe into a frame.
    std::span<std::byte> scratch() { return scratch_; }
    // Error resource_exhausted: too many children already.
    Status may_start() const;
    void add_child(pid_t pid, Child& child) { children_.emplace(pid, &child); }
    // Its exit will be reaped all the same.
    void remove_child(pid_t pid) { children_.erase(pid); }
    // Keeps reading a pipe whose command has ended, so that a process left in the background does
    // not die of writing to it.
    void discard_output(UniqueFd pipe);
    // Streams with work to do stand in one queue, whosever they are (Stream::want_turn).
    void add_turn(Stream& stream) { turns_.push_back(&stream); }
    void remove_turn(Stream& stream) { std::erase(turns_, &stream); }

  private:
    explicit Server(System& system) : guest_(system) {}

    Status open_signals();
    Status listen(UniqueFd socket);
    void accept();
    void on_signal();
    void reap();
    void take_turns();
    void sweep();

    Poller poller_;
    Timers timers_;
    OomWatch oom_;
    Guest guest_;
    Watch listener_;
    Watch signals_;
    bool stopping_ = false;
    bool reap_more_ = false;  // there were more children to reap than are reaped at once
    // No descriptor was left for a new connection: wait for one to end.
    bool accept_paused_ = false;
    std::array<std::byte, limits::kFrameChunkBytes> scratch_;
    std::unordered_map<pid_t, Child*> children_;
    Processes processes_{*this};
    Sessions sessions_{*this};
    std::list<Watch> discarded_;
    std::deque<Stream*> turns_;
    std::list<Connection> connections_;
    Forwards forwards_{*this};
};

}  // namespace spore
