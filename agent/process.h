#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/child.h"
#include "agent/control_group.h"
#include "agent/poller.h"
#include "agent/process_log.h"
#include "agent/stdin_pipe.h"

namespace spore {

class Server;
class Process;

// A request that waits for something of a process. It may come and go at any time.
class ProcessObserver {
  public:
    // It has written something, or has ended.
    virtual void on_change() = 0;
    // It is forgotten, and must not be touched any more.
    virtual void on_forgotten() = 0;

  protected:
    ~ProcessObserver() = default;
};

// A program that no connection owns: its output goes into its log, its end is kept.
class Process final : public Child {
  public:
    struct Options {
        uint32_t id = 0;
        std::string name;  // may be empty
        size_t log_bytes_max = 0;
    };

    Process(Server& server, Options options);
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;
    // Kills it, and what came of it, if it still runs.
    ~Process();

    // Nothing if it runs; else how the failed start is told (start_failed_frame). Errors: the
    // request cannot be served.
    Result<std::optional<SpawnFailure>> start(const SpawnPlan& plan, const wire::Exec& request);

    void on_exit(int wait_status, const rusage& usage) override;

    uint32_t id() const { return options_.id; }
    const std::string& name() const { return options_.name; }
    pid_t pid() const { return pid_; }
    // It has been reaped. What came of it may go on, and what that writes is kept too.
    bool exited() const { return exited_; }
    // It has exited, and all that was written before that is in the log.
    bool ended() const { return exited_ && outputs_[0].drained() && outputs_[1].drained(); }
    const ChildEnd& end() const { return end_; }
    const ProcessLog& log() const { return log_; }
    // Once it has ended: the sequence of the first record that is not of its life.
    uint64_t end_sequence() const { return end_sequence_; }
    StdinPipe& input() { return stdin_; }
    // Of its terminal, if it has one.
    void resize(uint16_t rows, uint16_t columns);

    // To its process group. Errors: unavailable once it has exited.
    Status signal(int signal) const;
    // To all that came of it, and is there now. Errors: host_unsupported without control groups.
    Status signal_descendants(int signal);
    // Gives its control group away, if it is not empty or gone.
    std::optional<ControlGroup> take_group();

    void observe(ProcessObserver& observer) { observers_.push_back(&observer); }
    void forget(ProcessObserver& observer) { std::erase(observers_, &observer); }
    bool observed() const { return !observers_.empty(); }

    flatbuffers::Offset<wire::ProcessInfo> info(flatbuffers::FlatBufferBuilder& buffer) const;

  private:
    // One of stdout and stderr.
    struct Output {
        Watch watch;
        // Set at the exit: bytes that were in the pipe then, and are still to be read.
        std::optional<size_t> remaining;

        bool drained() const { return !watch || (remaining && *remaining == 0); }
    };

    void started(pid_t pid, const SpawnPlan& plan, ChildStreams streams);
    // False: nothing was there.
    bool read_output(uint8_t fd);
    void drain_terminal();
    void changed();
    Output& output(uint8_t fd) { return outputs_[fd - 1]; }

    Server& server_;
    Options options_;
    std::vector<std::string> argv_;  // as ProcessInfo tells it
    std::optional<ControlGroup> group_;
    bool grouped_ = false;  // it has or had one
    pid_t pid_ = 0;         // 0 once it has been reaped
    bool exited_ = false;
    bool end_told_ = false;
    ChildEnd end_;
    int64_t started_ns_ = 0;
    int64_t ended_ns_ = 0;
    uint64_t end_sequence_ = 0;
    std::array<Output, 2> outputs_;
    StdinPipe stdin_;
    bool terminal_ = false;
    // Kept open, so that it may close its terminal and open it again.
    UniqueFd terminal_held_;
    ProcessLog log_;
    std::vector<ProcessObserver*> observers_;
};

}  // namespace spore
