#pragma once

// Controllers that a host has in hierarchies of cgroup v1, beside a v2 one without them: there a
// sandbox's cgroup (cgroup.h) has a counterpart of the same path in the hierarchy of each, which
// holds what limits are. It is made after the cgroup and removed before it, so whoever finds the
// cgroup finds all.
//
//   /sys/fs/cgroup/unified/spore/x      the cgroup: who is in it, kill, accounts
//   /sys/fs/cgroup/cpu/spore/x          cpu.cfs_quota_us, cpu.shares
//   /sys/fs/cgroup/memory/spore/x       memory.limit_in_bytes
//   /sys/fs/cgroup/pids/spore/x         pids.max
//
// Nobody can be started in one. A process with one thread moves itself there, by a 0 to `tasks`:
// that alone waits for no grace period, as moving any other does.

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// Those that limits are set in, in either version.
inline constexpr const char* kQuotaControllers[] = {"cpu", "memory", "pids"};

// The counterpart of the cgroup at `directory` in the hierarchy of `controller`, there or not.
// Empty: no hierarchy is beside that of `directory`.
std::filesystem::path cgroup_v1_of(const std::filesystem::path& directory,
                                   std::string_view controller);
// Which of kQuotaControllers children of the cgroup at `parent` will have counterparts for.
std::vector<std::string> cgroup_v1_controllers(const std::filesystem::path& parent);

// Makes that of `holder` which has a quota for good, where the host has processor time in cgroup v1
// (see cgroup.cc).
void hold_quota_v1(const std::filesystem::path& holder);
// Makes those of the cgroup at `directory`, and the parents'. What the host refuses is left out;
// false: all of it.
bool make_cgroups_v1(const std::filesystem::path& directory);
// The `tasks` of each that is there, for a process to move itself by enter_cgroups_v1(), and for
// nothing else if it is in the wrong hands: they move no process but `user`'s (0: the caller's own
// user's, for root any). One thread.
std::vector<UniqueFd> open_cgroups_v1(const std::filesystem::path& directory, unsigned user);
// Moves the calling process. Between clone and exec, too: system calls only. What the host refuses
// is seen by drop_unused_cgroups_v1().
void enter_cgroups_v1(const int* tasks, size_t count);
// Removes those that the process is not in which was to be: limits in them would hold nobody.
void drop_unused_cgroups_v1(const std::filesystem::path& directory);
// Removes all. False: somebody is in one.
bool remove_cgroups_v1(const std::filesystem::path& directory);

}  // namespace spore
