#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "agent/users.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// Where a session's shell finds what it tells the agent by: a number that a POSIX shell can name
// (one digit), and that scripts seldom use.
inline constexpr int kControlFd = 7;

// What the new process becomes.
struct SpawnPlan {
    std::vector<std::string> argv;         // not empty
    std::vector<std::string> environment;  // "NAME=value"
    std::string search_path;               // where argv[0] is looked up unless it has a slash
    std::string cwd;
    std::optional<User> user;  // nothing: stays what the agent is
    int stdin_fd = -1;
    int stdout_fd = -1;
    int stderr_fd = -1;
    int control_fd = -1;    // becomes kControlFd; -1: none
    bool terminal = false;  // they are one terminal, which controls the new session
    int cgroup_fd = -1;     // it starts in this control group; -1: in the agent's
};

// Where a new process came to an end before it was one, and errno there.
struct SpawnFailure {
    enum class Step { clone, session, streams, user, cwd, execute };
    Step step = Step::clone;
    int error = 0;
};

// Lets the agent have as many descriptors as it may; what it starts keeps the limit of before.
Status raise_descriptor_limit();

// Has the agent run before all that it starts, which keeps the priority of before: it is to answer
// beside processes that fork without end.
Status raise_priority();

// Starts it in a session and process group of its own, with every signal at its default and the OOM
// score of an ordinary process. Returns its PID once execve has succeeded; nothing is left of it
// otherwise. The agent stands still meanwhile (vfork).
std::expected<pid_t, SpawnFailure> spawn(const SpawnPlan& plan);

}  // namespace spore
