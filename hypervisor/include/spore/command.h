#pragma once

/// @file
/// Commands in a sandbox: what to run, what it is fed with, and what became of it.

#include <spore/error.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// What to run.
struct Command {
    /// The size of a terminal.
    struct Terminal {
        uint16_t rows = 24;     ///< 1 or more.
        uint16_t columns = 80;  ///< 1 or more.
    };

    /// argv[0] is looked up in the command's PATH unless it has a slash. No shell is between.
    std::vector<std::string> argv;
    /// Variables, above the sandbox's defaults.
    std::map<std::string, std::string> environment = {};
    /// Names that it is not to have, after `environment`.
    std::vector<std::string> unset = {};
    /// Start without the sandbox's defaults.
    bool clear_environment = false;
    /// The directory it runs in; empty: the user's home, or / where there is none.
    std::string cwd = {};
    /// "name" or "UID", with ":group" or ":GID" if wanted; empty: root.
    std::string user = {};
    /// After it the command's process group is killed (Exit::Kind::timed_out). 0: no limit.
    std::chrono::milliseconds timeout{0};
    /// What it reads from its standard input; without this and `input_fd` that is /dev/null.
    std::optional<std::string> input = {};
    /// A descriptor of this process, read to its end for its standard input, and not closed. -1:
    /// none.
    int input_fd = -1;
    /// Its standard input, output and error are a terminal of this size: what it writes comes as
    /// standard output. Not for a session's line.
    std::optional<Terminal> terminal = {};

    /// One line for /bin/sh.
    static Command shell(std::string line) { return {.argv = {"/bin/sh", "-c", std::move(line)}}; }
};

/// What became of a command.
struct Exit {
    /// How it ended.
    enum class Kind {
        exited,       ///< By itself.
        signaled,     ///< By a signal.
        timed_out,    ///< Command::timeout was over, and it was killed.
        not_started,  ///< The program is not there or cannot be executed.
    };
    Kind kind = Kind::exited;  ///< How it ended.
    /// As a shell tells it: its own; 128 + the signal; 124 timed out; 126 or 127 not started.
    int status = 0;
    int signal = 0;                    ///< That ended it; 0 if it exited.
    std::string message = {};          ///< not_started: why.
    std::chrono::microseconds cpu{0};  ///< Of it and the children that it waited for.
    uint64_t peak_memory_bytes = 0;    ///< Of its largest process.
    bool oom_killed = false;     ///< The guest's kernel killed a process of it for want of memory.
    bool session_ended = false;  ///< In a session: the line has ended its shell.

    /// Whether it has exited with status 0.
    bool success() const { return kind == Kind::exited && status == 0; }
};

/// Orders to a command while it runs, from any thread: give it to the call in Streams::control. For
/// one command at a time. Cheap to copy; thread-safe.
class CommandControl {
  public:
    /// Errors: resource_exhausted (descriptors).
    static Result<CommandControl> create();
    /// Sends a signal, 1 to 63, to the command's process group.
    void signal(int number) const;
    /// Its terminal has another size; it gets SIGWINCH.
    void resize(const Command::Terminal& size) const;

    /// Of the library's own.
    struct Impl;
    /// Of the library's own.
    explicit CommandControl(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
    /// Of the library's own.
    const std::shared_ptr<const Impl>& impl() const { return impl_; }

  private:
    std::shared_ptr<const Impl> impl_;
};

/// Where a command's output goes, as it comes. The functions are called in the thread that called;
/// as long as one does not return, the command's output waits, at last in the command. An error
/// that one returns ends the command, and is what the call returns; so does an exception, as
/// Code::internal.
struct Streams {
    /// Takes some bytes, of any length.
    using Sink = std::function<Status(std::span<const std::byte>)>;

    Sink out = {};  ///< Standard output; none: dropped.
    Sink err = {};  ///< Standard error; none: dropped.
    /// The command runs, as this PID in the guest.
    std::function<void(int pid)> started = {};
    std::optional<CommandControl> control = {};  ///< How it is given orders; none: by nobody.
};

/// What a command has written, and what became of it.
struct Captured {
    Exit exit = {};          ///< What became of it.
    std::string out = {};    ///< The first of its standard output.
    std::string err = {};    ///< The first of its standard error.
    uint64_t out_bytes = 0;  ///< How much standard output there was.
    uint64_t err_bytes = 0;  ///< How much standard error there was.

    /// Whether there was more than is here.
    bool truncated() const { return out_bytes > out.size() || err_bytes > err.size(); }
};

}  // namespace v1
}  // namespace spore
