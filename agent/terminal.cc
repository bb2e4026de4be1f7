#include "agent/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

namespace spore {

Result<Terminal> Terminal::open(const wire::Pty& size, const std::optional<User>& user) {
    Terminal terminal;
    terminal.master = UniqueFd(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
    if (!terminal.master)
        return fail_errno("open a terminal (/dev/ptmx)");
    const int unlocked = 0;
    if (::ioctl(terminal.master.get(), TIOCSPTLCK, &unlocked) != 0)
        return fail_errno("TIOCSPTLCK");
    // Not by its name, which may be of another mount of devpts.
    terminal.slave =
        UniqueFd(::ioctl(terminal.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!terminal.slave)
        return fail_errno("TIOCGPTPEER");
    // For programs that open it by its name.
    if (user && ::fchown(terminal.slave.get(), user->uid, static_cast<gid_t>(-1)) != 0)
        return fail_errno("fchown of a terminal");
    set_window_size(terminal.master.get(), size.rows(), size.columns());
    return terminal;
}

void set_window_size(int master, uint16_t rows, uint16_t columns) {
    const winsize size = {.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    (void)::ioctl(master, TIOCSWINSZ, &size);  // fails for no value, and for no terminal alone
}

std::string end_of_input(int master, bool after_newline) {
    termios mode = {};
    if (::tcgetattr(master, &mode) != 0)
        return {};
    const bool by_lines = (mode.c_lflag & ICANON) != 0;
    return std::string(by_lines && !after_newline ? 2 : 1, static_cast<char>(mode.c_cc[VEOF]));
}

}  // namespace spore
