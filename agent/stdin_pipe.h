#pragma once

#include <functional>
#include <string>

#include "agent/poller.h"
#include "hypervisor/base/agent_limits.h"
#include "schema/frame.h"

namespace spore {

// The agent's end of a program's stdin. What a client sends waits here, within the credit that it
// was given, until the program reads it.
class StdinPipe {
  public:
    StdinPipe() = default;
    // Who is told: that so many bytes more may be sent; that nothing is read any more; that the
    // client's end has been written.
    struct Listener {
        std::function<void(uint32_t bytes)> granted;
        std::function<void()> closed;
        std::function<void()> finished;
    };

    // Takes the pipe's end, or a terminal's, which does not block. A terminal's end is typed.
    void open(Poller& poller, UniqueFd fd, bool terminal = false);
    void listen(Listener listener) { listener_ = std::move(listener); }
    // Begins to watch for the program to close it.
    void start();
    // Errors: the client broke the protocol.
    Status take(const wire::StdinData& data);
    void close();
    // Closes it, and tells so: the program has ended.
    void end();

    // What may be sent now, with all that was granted before.
    uint32_t credit() const { return credit_; }
    bool listened() const { return listener_.granted != nullptr; }
    // A new client starts with what there is room for.
    uint32_t grant_anew();
    // The client has sent its end.
    bool ended() const { return eof_; }
    explicit operator bool() const { return static_cast<bool>(watch_); }

  private:
    // Waits for EPOLLERR alone, which comes unasked: the program has closed its stdin.
    static constexpr uint32_t kErrorOnly = EPOLLET;

    void write();
    void grant(size_t bytes);
    bool type_end();

    Watch watch_;
    Listener listener_;
    std::string waiting_;  // received, not yet written to the pipe
    size_t written_ = 0;   // of it
    uint32_t credit_ = limits::kStdinCreditBytes;
    size_t to_grant_ = 0;  // written and not yet granted again
    bool eof_ = false;
    bool type_end_ = false;  // of a terminal, and not done yet
    char last_ = '\n';       // that was written
};

}  // namespace spore
