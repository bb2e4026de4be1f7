#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace spore {

// What /proc says of processes.

struct ProcessFacts {
    pid_t session = 0;         // setsid(2)
    uint64_t start_ticks = 0;  // after boot
    uint64_t cpu_ticks = 0;    // of it and the children it waited for
};

inline constexpr uint64_t kTicksPerSecond = 100;  // USER_HZ

// Nothing of one that has ended, reaped or not.
std::optional<ProcessFacts> look_up(pid_t pid);

// The session of one that has not been reaped yet; 0: there is none.
pid_t session_of(pid_t pid);

// A moment that processes have started before or after.
struct ProcessMoment {
    uint64_t ticks = 0;
    pid_t last_pid = 0;  // tells apart those of one tick

    static ProcessMoment now();
};

// Sends a signal to every process of a session, in whatever process group it is, that has started
// after `since`. The session's ID must not be free for others meanwhile: its leader has not been
// reaped. SIGKILL is sent again while there are new ones, a few times.
void signal_session(pid_t session, int signal, const ProcessMoment& since = {});

}  // namespace spore
