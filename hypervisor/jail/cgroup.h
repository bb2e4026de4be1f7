#pragma once

// A cgroup (v2) for each sandbox: what counts its processor time and memory, and what its limits
// are set in. All are children of one cgroup, named "spore", in the topmost cgroup that this user
// may divide: the host's root for root, a delegated subtree (systemd's Delegate=) for others.
//
// A process is started in its cgroup by clone3, never moved there: a move waits for a grace period,
// some 12 ms in which no other cgroup can be made or entered.
//
// Whoever makes one holds the parent's lock, shared, until a process is in it. So one that is empty
// while nobody holds that lock is what a sandbox's end or somebody's death has left, and anybody
// may remove it (sweep_cgroups). The kernel removes none that has a process.
//
// Controllers that the host has in cgroup v1 are had there: cgroup_v1.h.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// Where to look; other than these in tests.
struct CgroupHost {
    std::vector<std::string> mounts = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    std::string self = "/proc/self/cgroup";
    // $SPORE_CGROUP: the parent's directory, or "none"; empty: chosen as above.
    std::string wanted = from_environment();

    static std::string from_environment();
};

// The parent of all.
struct CgroupPlace {
    std::string mount;  // of the hierarchy
    std::string path;   // within it, as /proc/PID/cgroup has it: "/spore"

    std::filesystem::path directory() const { return mount + path; }
};

// Errors: host_unsupported, saying why there is none (no hierarchy, nothing that we may divide).
// Nothing is made yet.
Result<CgroupPlace> find_cgroup_place(const CgroupHost& host = {});
// Makes the parent if it is not there, and has it hand on those of kCgroupControllers that the host
// has. Errors: the host's.
Status prepare_cgroup_place(const CgroupPlace& place);

inline constexpr const char* kCgroupControllers[] = {"cpu", "memory", "io", "pids"};
// Which of them the children of `place` have; before the parent is there: would have.
std::vector<std::string> cgroup_controllers(const CgroupPlace& place);
// Which of kQuotaControllers (cgroup_v1.h) they have neither so nor by counterparts of cgroup v1:
// nothing holds the limits that need them.
std::vector<std::string> missing_quota_controllers(const CgroupPlace& place);

struct Cgroup {
    std::filesystem::path directory;
    std::string path;    // as /proc/PID/cgroup has it
    UniqueFd handle;     // of the directory: for CLONE_INTO_CGROUP
    UniqueFd unstarted;  // the parent's lock: to be let go when a process is in it
};

// A new one; any thread or process. Errors: already_exists, the host's.
Result<Cgroup> make_cgroup(const CgroupPlace& place, const std::string& name);
// Lets whoever has its handle, and is in a child of the same parent, start processes in it: what a
// zygote needs, which has no rights. By name only root gets there. Root only.
Status open_cgroup(const CgroupPlace& place, const Cgroup& cgroup);
// Kills what is in it, however it came there.
void kill_cgroup(const std::filesystem::path& directory);
// With its counterparts of cgroup v1. False: it has processes still.
bool remove_cgroup(const std::filesystem::path& directory);
// Removes all that are empty and not about to be used; returns how many. About 4 µs for each that
// is in use.
size_t sweep_cgroups(const CgroupPlace& place);

// The v2 cgroup of a process, "self" or a PID, as /proc has it. Errors: not_found.
Result<std::string> cgroup_of(const std::string& process);

}  // namespace spore
