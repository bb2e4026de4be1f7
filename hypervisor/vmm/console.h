#pragma once

// The serial port's other end: a terminal, a file, or nothing.

#include <termios.h>

#include <array>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/io/event_loop.h"

namespace spore {

// Takes the guest's output from any thread without ever blocking it: what the other end does not
// take is kept up to a bound, and beyond that dropped and counted. Made and ended on the loop
// thread.
class Console {
  public:
    enum class Kind { none, terminal, file };
    struct Output {
        Kind kind = Kind::none;
        // Of a file (at most kConsoleLogBytesMax are appended to it) or of standard output.
        UniqueFd fd;
    };

    // `where`: "stdio", "none" or "file:PATH". Errors: the file's.
    static Result<Output> open_output(const std::string& where);
    static Result<std::unique_ptr<Console>> create(EventLoop& loop, Output output);
    ~Console();

    // Any thread.
    void write(std::span<const std::byte> bytes);

    // Starts reading standard input, if that is the console: bytes go to `input`; Ctrl-] typed at a
    // terminal calls `quit`.
    void start_input(std::function<void(std::span<const std::byte>)> input,
                     std::function<void()> quit);
    // Gives the ring's operations up and writes what is left; then the loop may go.
    void finish();

    // Any thread: what it has taken, and will take at most (of a file; else 0: no bound), and what
    // it has not.
    uint64_t taken_bytes();
    uint64_t bytes_max() const { return limit_ == ~uint64_t{0} ? 0 : limit_; }
    uint64_t dropped_bytes() const { return dropped_; }

  private:
    Console(EventLoop& loop, bool terminal, uint64_t limit);
    void flush();
    void read_next();

    EventLoop& loop_;
    bool interactive_;
    uint64_t limit_;  // bytes in all, for a file
    RingFile output_;
    RingFile input_;
    std::optional<termios> saved_terminal_;
    std::function<void(std::span<const std::byte>)> on_input_;
    std::function<void()> on_quit_;
    std::array<std::byte, 256> input_buffer_ = {};

    std::mutex mutex_;
    uint64_t total_ = 0;              // guarded by mutex_; what it has taken
    std::vector<std::byte> waiting_;  // guarded by mutex_
    bool flush_posted_ = false;       // guarded by mutex_
    std::atomic<uint64_t> dropped_ = 0;
    std::vector<std::byte> writing_;
    size_t written_ = 0;
    bool finished_ = false;
    Operation write_op_;
    Operation read_op_;
};

}  // namespace spore
