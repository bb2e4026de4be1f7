#pragma once

// What a host that runs strangers' code should have, as a guide for production would say it: each
// with why, and with the command that puts it right. Nothing here keeps Spore from working.

#include <string>
#include <vector>

#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/sandbox/host_facts.h"

namespace spore {

// Where to look; other than these in tests.
struct HostTree {
    std::string root;         // before /sys, /proc and the programs' places
    uint64_t now_unix_s = 0;  // 0: now
    // Of kQuotaControllers, which cgroups of sandboxes lack: all, where they get none.
    std::vector<std::string> missing_controllers{std::begin(kQuotaControllers),
                                                 std::end(kQuotaControllers)};
    bool core_scheduling = false;        // this kernel has PR_SCHED_CORE
    uint64_t locked_memory_max = ~0ull;  // RLIMIT_MEMLOCK, bytes
    uint64_t open_files_max = ~0ull;     // RLIMIT_NOFILE, hard
    bool is_root = true;

    // This host, as this process sees it.
    static HostTree here();
};

std::vector<HostFinding> examine_for_production(const HostTree& tree);

}  // namespace spore
