#include "hypervisor/vmm/console.h"

#include <fcntl.h>

#include "hypervisor/base/console_limits.h"

namespace spore {

namespace {
constexpr std::byte kQuitKey{0x1d};  // Ctrl-]
}  // namespace

Result<Console::Output> Console::open_output(const std::string& where) {
    Output output;
    if (where == "stdio") {
        output.kind = Kind::terminal;
        output.fd.reset(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
        if (!output.fd)
            return fail_errno("standard output");
    } else if (where.starts_with("file:")) {
        std::string path = where.substr(5);
        output.kind = Kind::file;
        output.fd.reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
        if (!output.fd)
            return fail_errno("serial console '" + path + "'");
    }
    return output;
}

Result<std::unique_ptr<Console>> Console::create(EventLoop& loop, Output output) {
    std::unique_ptr<Console> console(
        new Console(loop, output.kind == Kind::terminal,
                    output.kind == Kind::file ? limits::kConsoleLogBytesMax : ~uint64_t{0}));
    if (output.fd)
        console->output_ = TRY(loop.add_file(std::move(output.fd)));
    return console;
}

Console::Console(EventLoop& loop, bool interactive, uint64_t limit)
    : loop_(loop),
      interactive_(interactive),
      limit_(limit),
      write_op_([this](int32_t result) {
          if (result <= 0) {
              dropped_ += writing_.size() - written_;  // the reader is gone
              written_ = writing_.size();
          } else {
              written_ += static_cast<size_t>(result);
          }
          flush();
      }),
      read_op_([this](int32_t result) {
          if (result <= 0 || finished_)
              return;
          auto bytes = std::span(input_buffer_).first(static_cast<size_t>(result));
          if (saved_terminal_ && bytes.size() == 1 && bytes[0] == kQuitKey)
              on_quit_();
          else
              on_input_(bytes);
          read_next();
      }) {}

Console::~Console() {
    if (saved_terminal_)
        ::tcsetattr(STDIN_FILENO, TCSANOW, &*saved_terminal_);
}

void Console::write(std::span<const std::byte> bytes) {
    std::lock_guard lock(mutex_);
    size_t room = output_ ? limits::kConsoleWaitingBytesMax - waiting_.size() : 0;
    size_t taken = std::min(room, bytes.size());
    if (limit_ - total_ < taken)
        taken = static_cast<size_t>(limit_ - total_);
    total_ += taken;
    waiting_.insert(waiting_.end(), bytes.begin(), bytes.begin() + static_cast<ssize_t>(taken));
    if (output_)
        dropped_ += bytes.size() - taken;
    if (taken > 0 && !std::exchange(flush_posted_, true))
        loop_.post([this] { flush(); });
}

uint64_t Console::taken_bytes() {
    std::lock_guard lock(mutex_);
    return total_;
}

void Console::flush() {
    if (write_op_.in_flight())
        return;
    if (written_ == writing_.size()) {
        writing_.clear();
        written_ = 0;
        std::lock_guard lock(mutex_);
        flush_posted_ = false;
        writing_.swap(waiting_);
    }
    if (!writing_.empty())
        loop_.write(write_op_, output_, std::span(writing_).subspan(written_), EventLoop::kStream);
}

void Console::start_input(std::function<void(std::span<const std::byte>)> input,
                          std::function<void()> quit) {
    on_input_ = std::move(input);
    on_quit_ = std::move(quit);
    if (!interactive_)
        return;
    termios terminal = {};
    if (::tcgetattr(STDIN_FILENO, &terminal) == 0) {
        saved_terminal_ = terminal;
        ::cfmakeraw(&terminal);
        ::tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
    }
    UniqueFd fd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
    auto file = loop_.add_file(std::move(fd));
    if (!file)
        return;  // standard input is closed, or a file that the ring cannot wait on: no input
    input_ = std::move(*file);
    read_next();
}

void Console::read_next() {
    loop_.read(read_op_, input_, input_buffer_, EventLoop::kStream);
}

void Console::finish() {
    flush();
    loop_.run_until([this] { return !write_op_.in_flight(); }, std::chrono::seconds(2));
    finished_ = true;
}

}  // namespace spore
