#pragma once

// Processes in namespaces of their own.

#include <sys/types.h>

#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

struct ProcessPlan {
    std::string program;
    std::vector<std::string> arguments;  // from argv[0] on
    std::string directory;               // the child's working directory
    // Descriptor i of the child is a copy of descriptors[i]; -1: /dev/null. No other is inherited.
    std::vector<int> descriptors;
    // In a PID namespace of its own. Not a zygote: with the first process of a PID namespace end
    // all others in it, and those in the namespaces below.
    bool own_pids = true;
    // The directory of the cgroup that it starts in (CLONE_INTO_CGROUP); -1: the caller's.
    int cgroup = -1;
    // Of that cgroup's counterparts in cgroup v1, for the child to move itself before it executes
    // the program (cgroup_v1.h).
    std::vector<int> cgroups_v1 = {};
    // Its parent is init, or the subreaper: nobody here need wait for its end. 30 µs.
    bool detached = false;
};

struct IsolatedProcess {
    pid_t pid = -1;             // as the caller sees it
    UniqueFd handle;            // pidfd: signals, poll() for the end
    bool own_pids = false;      // it is PID 1 of a PID namespace of its own
    std::string why_shared;     // if it is not: why
    std::string why_no_cgroup;  // it is in the caller's, though the plan named one: why
};

// Starts `plan.program`, as PID 1 of its own PID namespace if the plan says so, leader of its own
// session, no signal blocked and none handled. By root the child is in the caller's user namespace
// until it enters the jail, so that it can open what it needs; by others it is in a user namespace
// where it keeps its IDs. Where the host refuses namespaces or the cgroup it starts without, and
// `why_shared` or `why_no_cgroup` says so. Any thread; the caller waits until the child has
// executed the program. Errors: those of clone, and of what stands before the program's first
// instruction (execve, chdir).
Result<IsolatedProcess> start_isolated(const ProcessPlan& plan);

// Forks the calling process, which has one thread and is jailed, into new user, mount, PID, IPC and
// UTS namespaces; the network namespace stays the parent's, which is an empty one. Returns the
// child's PID, and 0 in the child, which calls enter_worker_jail() next. The parent's seccomp
// filter must be zygote's or none. `cgroup`: the directory of the cgroup that the child starts in
// (open_cgroup), -1: the caller's. Errors: those of clone, also where only the cgroup is
// refused.
Result<pid_t> fork_jailed(int cgroup = -1);
// To be called before the process restricts itself: lets fork_jailed() renew what glibc knows
// about the main thread.
void prepare_fork_jailed();

// A network namespace with nothing in it takes 450 µs to make, up to 12 ms while others are being
// cleaned up, and an empty root 200 µs. So root makes one of each for the whole host, and keeps
// them by bind mounts at kPinsDirectory until the host goes down; enter_jail() joins the one, and
// takes a copy of the other. No process in a jail can change either.
inline constexpr const char* kPinsDirectory = "/run/spore-jail";
// Makes them unless they are there; any process of root's, any number at once. Errors: those of the
// host. Without them enter_jail() makes its own.
Status pin_namespaces();
// Lets them go; processes inside keep them alive.
Status unpin_namespaces();

struct Pins {
    UniqueFd network;
    UniqueFd root;  // a mount namespace
};
// Both, or neither if they are not there or not root's own.
Pins open_pins();

}  // namespace spore
