#pragma once

// The last steps into the jail, which a worker of a jailed process takes again.

#include "hypervisor/jail/jail.h"

namespace spore {

// Empties every capability set of the calling thread, the bounding set included.
JailItem drop_capabilities();
// no_new_privs, not dumpable (nobody traces it or reads its memory, and it leaves no core),
// rlimits. `own_user`: the process is in a user namespace of its own, so that its tasks are counted
// there.
Status set_limits(const JailOptions& options, bool own_user, JailReport& report);
// Closes what `options` do not keep.
Status close_others(const JailOptions& options, JailReport& report);
// Whether the process is PID 1 of its PID namespace, in which case it can see nobody else's.
JailItem pid_item();
// Whether the process's user is no other's.
JailItem own_user_item(const JailOptions& options);
// Gives the process, which has one thread, a core-scheduling cookie of its own: no other process
// runs on the other threads of a core at the same time. Holds as well where cores have one thread.
JailItem core_scheduling_item();
// While names can be used yet: whether they have.
void look_at_threads_of_cores();
// Whether the process is in the cgroup that JailOptions::cgroup names.
JailItem cgroup_item(const std::string& wanted);

// Keeps what jail_report() returns, all of it or one item.
void keep_report(const JailReport& report);
void keep_item(JailItem item);

}  // namespace spore
