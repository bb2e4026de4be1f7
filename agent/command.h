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

// One program that a client has started on one stream: its pipes, their credit, and its end. It
// runs in a process group of its own, which is killed with the client.
class Command : public Stream, public Child {
  public:
    using Stream::Stream;
    ~Command() override;

    // Starts it and answers with Started or StartFailed. Errors: the request cannot be served.
    Status start(const wire::Exec& request);

    Status take(const wire::Frame& frame) override;
    // Kills it: its end is the last frame.
    void cancel() override;
    void update() override;

    void on_exit(int wait_status, const rusage& usage) override;

  private:
    // One of stdout and stderr.
    struct OutputPipe {
        Watch watch;
        uint32_t credit = 0;
        // Set at the exit: bytes that were in the pipe then. What a process that outlives the
        // command writes later is not part of it.
        std::optional<size_t> remaining;

        bool drained() const { return !watch || (remaining && *remaining == 0); }
    };

    void watch(ChildStreams& streams);
    Status take_credit(const wire::Credit& credit);
    Status take_signal(const wire::Signal& signal);
    void started(pid_t pid, const wire::Exec& request);
    // Exec.timeout_ms is over.
    void on_timeout();

    void read_output(uint8_t fd);
    void kill_group(int signal);
    void finish_if_drained();

    OutputPipe& output(uint8_t fd) { return outputs_[fd - 1]; }

    pid_t pid_ = -1;  // -1 once it has been reaped
    bool exited_ = false;
    ChildEnd end_;
    Timer timeout_{server_.timers(), [this] { on_timeout(); }};

    std::array<OutputPipe, 2> outputs_;
    StdinPipe stdin_;
};

// Serves wire::Exec.
Result<std::unique_ptr<Stream>> serve_exec(const Request& request);

}  // namespace spore
