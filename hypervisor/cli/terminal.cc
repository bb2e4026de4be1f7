#include "hypervisor/cli/terminal.h"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <csignal>

namespace spore::cli {

namespace {

// What the handlers see; written only while they are not installed.
termios mode_before, mode_raw;
ExecControl* resized_control = nullptr;

constexpr std::array kEndingSignals = {SIGINT, SIGQUIT, SIGTERM, SIGHUP};

void handle(int signal, void (*handler)(int)) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    ::sigaction(signal, &action, nullptr);
}

// The signal does what it always does, as soon as its handler has returned.
void give_back_and_obey(int signal) {
    const int error = errno;
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &mode_before);
    handle(signal, SIG_DFL);
    ::raise(signal);
    errno = error;
}

void take_again(int) {
    const int error = errno;
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &mode_raw);
    handle(SIGTSTP, give_back_and_obey);
    errno = error;
}

void tell_size(int) {
    const int error = errno;
    if (const auto size = terminal_size())
        resized_control->resize(*size);
    errno = error;
}

}  // namespace

std::optional<TerminalSize> terminal_size() {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        winsize size = {};
        if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row != 0 && size.ws_col != 0)
            return TerminalSize{size.ws_row, size.ws_col};
    }
    return std::nullopt;
}

Result<std::unique_ptr<RawTerminal>> RawTerminal::enter() {
    if (::tcgetattr(STDIN_FILENO, &mode_before) != 0)
        return fail_errno("standard input: its terminal's mode");
    mode_raw = mode_before;
    ::cfmakeraw(&mode_raw);
    for (const int signal : kEndingSignals)
        handle(signal, give_back_and_obey);
    handle(SIGTSTP, give_back_and_obey);
    handle(SIGCONT, take_again);
    std::unique_ptr<RawTerminal> terminal(new RawTerminal);
    if (::tcsetattr(STDIN_FILENO, TCSADRAIN, &mode_raw) != 0)
        return fail_errno("standard input: raw mode");
    return terminal;
}

RawTerminal::~RawTerminal() {
    handle(SIGCONT, SIG_DFL);
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &mode_before);
    for (const int signal : kEndingSignals)
        handle(signal, SIG_DFL);
    handle(SIGTSTP, SIG_DFL);
}

ResizeForwarding::ResizeForwarding(ExecControl& control) {
    resized_control = &control;
    handle(SIGWINCH, tell_size);
}

ResizeForwarding::~ResizeForwarding() {
    handle(SIGWINCH, SIG_DFL);
    resized_control = nullptr;
}

}  // namespace spore::cli
