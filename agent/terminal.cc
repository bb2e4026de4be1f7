#include "agent/terminal.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "agent/file.h"

namespace spore {

namespace {

// Of a process that lives; 0 of one that does not.
pid_t session_of(pid_t pid) {
    const auto stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    if (!stat)
        return 0;
    // The name before it may have anything in it, parentheses too (proc(5)).
    const size_t name_end = stat->rfind(')');
    if (name_end == std::string::npos)
        return 0;
    char state = 0;
    int parent = 0, group = 0, session = 0;
    const int found = std::sscanf(stat->c_str() + name_end + 1, " %c %d %d %d", &state, &parent,
                                  &group, &session);
    return found == 4 && state != 'Z' && state != 'X' ? session : 0;
}

}  // namespace

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

void kill_session(pid_t session) {
    ::kill(-session, SIGKILL);
    // Again while there are new ones; one that forks faster than it is killed is not waited for.
    constexpr int kRoundsMax = 8;
    for (int round = 0; round < kRoundsMax; ++round) {
        DIR* processes = ::opendir("/proc");
        if (processes == nullptr)
            return;
        bool found = false;
        while (const dirent* entry = ::readdir(processes)) {
            const pid_t pid = std::atoi(entry->d_name);
            if (pid > 1 && session_of(pid) == session && ::kill(pid, SIGKILL) == 0)
                found = true;
        }
        ::closedir(processes);
        if (!found)
            return;
    }
}

}  // namespace spore
