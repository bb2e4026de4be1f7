#pragma once

#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "agent/poller.h"
#include "agent/request.h"
#include "agent/spawn.h"
#include "agent/stream.h"

namespace spore {

// One program that a client has started on one stream: its pipes, their credit, and its end. It
// runs in a process group of its own, which is killed with the client.
class Command : public Stream {
  public:
    using Stream::Stream;
    ~Command() override;

    // Starts it and answers with Started or StartFailed. Errors: the request cannot be served.
    Status start(const wire::Exec& request);

    Status take(const wire::Frame& frame) override;
    // Kills it: its end is the last frame.
    void cancel() override;
    void update() override;

    // The kernel has reaped it.
    void on_exit(int wait_status, const rusage& usage);
    // Exec.timeout_ms is over.
    void on_timeout();

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

    struct Pipes;  // the command's ends, until it has been started

    Result<SpawnPlan> plan_from(const wire::Exec& request) const;
    Result<Pipes> open_pipes(const wire::Exec& request);
    Status take_stdin(const wire::StdinData& data);
    Status take_credit(const wire::Credit& credit);
    Status take_signal(const wire::Signal& signal);
    void started(pid_t pid, const wire::Exec& request);
    void start_failed(const SpawnPlan& plan, const SpawnFailure& failure);

    // Waits for EPOLLERR alone, which comes unasked: the command has closed its stdin.
    static constexpr uint32_t kErrorOnly = EPOLLET;

    void read_output(uint8_t fd);
    void write_stdin();
    void close_stdin();
    void grant_stdin(size_t bytes);
    void kill_group(int signal);
    void finish_if_drained();

    OutputPipe& output(uint8_t fd) { return outputs_[fd - 1]; }

    pid_t pid_ = -1;  // -1 once it has been reaped
    bool exited_ = false;
    bool timed_out_ = false;
    int wait_status_ = 0;
    rusage usage_ = {};

    std::array<OutputPipe, 2> outputs_;
    Watch stdin_;
    std::string stdin_waiting_;  // received, not yet written to the pipe
    size_t stdin_written_ = 0;   // of it
    uint32_t stdin_credit_ = 0;  // what the client may still send
    size_t stdin_to_grant_ = 0;  // written and not yet granted again
    bool stdin_eof_ = false;
};

// Serves wire::Exec.
Result<std::unique_ptr<Stream>> serve_exec(const Request& request);

}  // namespace spore
