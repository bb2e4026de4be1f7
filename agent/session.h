#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "agent/child.h"
#include "agent/control_group.h"
#include "agent/poller.h"
#include "agent/process_table.h"

namespace spore {

class Server;
class SessionLine;

// A shell that keeps its state from line to line. One line runs at a time. A line that is killed
// takes the shell with it, and what that line has started; what earlier lines have left in the
// background lives on. The next line then starts another shell, where the last one was.
class Session final : public Child {
  public:
    // `serial` is never used again.
    Session(Server& server, uint64_t serial, std::string directory);
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    // Kills its shell and all that came of it. Lines fail.
    ~Session();

    // Starts its first shell. Errors: those of the request, or of the start.
    Status open(const wire::SessionCreate& request);

    const std::string& name() const { return name_; }
    flatbuffers::Offset<wire::SessionInfo> info(flatbuffers::FlatBufferBuilder& buffer) const;

    void on_exit(int wait_status, const rusage& usage) override;

    // ---- For lines

    // It runs once those before it have ended.
    void add(SessionLine& line);
    bool runs(const SessionLine& line) const { return current_ == &line; }
    // It is gone. If it runs it has been killed.
    void leave(SessionLine& line);
    // To the shell, if that runs this line, and to what the line has started.
    void signal_line(SessionLine& line, int signal);
    // Kills all that is in it now, and gives its control group away, if there is one.
    std::optional<ControlGroup> take_group();
    // What lines wait with.
    size_t bytes_waiting() const;

  private:
    Status start_shell();
    void begin_next();
    Status begin(SessionLine& line);
    void write_script();
    void read_control();
    void take_word(std::string_view word);
    void end_current(ChildEnd end);
    std::string directory_of_shell() const;
    uint64_t cpu_ticks_of_shell() const;
    rusage usage_since(uint64_t cpu_us) const;

    Server& server_;
    const uint64_t serial_;
    const std::string directory_;  // for its lines' files
    std::string name_, user_, shell_;
    std::vector<uint8_t> start_;  // a wire::Exec: how its shells are started
    std::optional<User> as_;      // whom they run as, if not as the agent
    std::string cwd_;             // where the next shell starts, and the last line ended

    std::optional<ControlGroup> group_;  // of all its shells; none outside a guest
    pid_t pid_ = -1;                     // of its shell; -1: none runs
    bool killed_ = false;                // and has not been reaped
    Watch script_;                       // its stdin
    std::string script_waiting_;
    Watch control_;
    std::string control_read_;

    uint64_t lines_ = 0;  // begun so far
    SessionLine* current_ = nullptr;
    bool begun_ = false;  // the shell has opened its streams
    ProcessMoment begin_;
    uint64_t cpu_before_us_ = 0;
    std::deque<SessionLine*> waiting_;
};

}  // namespace spore
