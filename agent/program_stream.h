#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "agent/child.h"
#include "agent/poller.h"
#include "agent/request.h"
#include "agent/server.h"
#include "agent/stdin_pipe.h"
#include "agent/stream.h"

namespace spore {

// What a client sees of a program that runs for it on one stream: its stdin and its output, or its
// terminal, within their credit, and its end behind all of it.
class ProgramStream : public Stream {
  public:
    using Stream::Stream;

    Status take(const wire::Frame& frame) override;
    // Kills it: its end is the last frame.
    void cancel() override;
    void update() override;

    // Exec.timeout_ms is over.
    bool timed_out() const { return timed_out_; }

  protected:
    // Sends it a signal, SIGKILL to all that belongs to it.
    virtual void kill(int signal) = 0;

    // Takes the agent's ends of its streams.
    void watch(ChildStreams& streams);
    // It runs: tells the client, who has granted so much for its output.
    void started(pid_t pid, uint32_t stdout_credit, uint32_t stderr_credit);
    // It has ended: what is in its streams is still sent, and then its end.
    void ended(const ChildEnd& end);
    bool has_ended() const { return end_.has_value(); }
    // Exec.timeout_ms counts from now on.
    void start_timeout(uint64_t timeout_ms) { timeout_.set_timeout_ms(timeout_ms); }
    virtual void on_timeout();

    // Reads on after the end of a terminal's program, which no event announces.
    bool turn() override;

  private:
    // One of stdout and stderr.
    struct Output {
        Watch watch;
        uint32_t credit = 0;
        // Set at the end: bytes that are still to be read, at most. What a process that outlives
        // the program writes later is not part of it.
        std::optional<size_t> remaining;

        bool drained() const { return !watch || (remaining && *remaining == 0); }
    };

    Status take_credit(const wire::Credit& credit);
    Status take_signal(const wire::Signal& signal);
    Status take_window_size(const wire::WindowSize& size);
    // Whether it is worth to try again at once.
    bool read_output(uint8_t fd);
    void leave(Output& output);
    void finish_if_drained();

    Output& output(uint8_t fd) { return outputs_[fd - 1]; }

    std::optional<ChildEnd> end_;
    bool timed_out_ = false;
    Timer timeout_{server_.timers(), [this] { on_timeout(); }};
    std::array<Output, 2> outputs_;
    StdinPipe stdin_;
    bool terminal_ = false;
    // Kept open, so that a program may close its terminal and open it again.
    UniqueFd terminal_held_;
};

}  // namespace spore
