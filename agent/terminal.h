#pragma once

#include <optional>

#include "agent/users.h"
#include "hypervisor/base/unique_fd.h"
#include "schema/frame.h"

namespace spore {

// What can wait in a pseudo-terminal, at most: the kernel's buffers before the line discipline
// (TTYB_DEFAULT_MEM_LIMIT of drivers/tty/tty_buffer.c) and that itself.
inline constexpr size_t kTerminalBytesMax = 1 << 20;

// Both ends of a pseudo-terminal: the agent's, which does not block, and the program's.
struct Terminal {
    UniqueFd master, slave;

    // It belongs to `user`, if there is one. Errors: resource_exhausted (there are too many), and
    // others.
    static Result<Terminal> open(const wire::Pty& size, const std::optional<User>& user);
};

// The foreground process group gets SIGWINCH if it is another than before.
void set_window_size(int master, uint16_t rows, uint16_t columns);

// What is typed to end the input where it is read by lines: once after a newline, and else twice,
// the first of them to hand the line out.
std::string end_of_input(int master, bool after_newline);

}  // namespace spore
