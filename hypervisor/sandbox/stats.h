#pragma once

// What a sandbox uses, and of what: from its cgroup, its VMM, its disk and its agent.

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/sandbox/sandbox.h"

namespace spore {

struct DiskStats {
    uint64_t read_bytes = 0, reads = 0;
    uint64_t written_bytes = 0, writes = 0;  // flushes and discards are writes
    uint64_t throttled_us = 0;
    RateLimits held_to;  // as the device has it
};
struct NetworkStats {
    uint64_t rx_bytes = 0, rx_packets = 0, rx_throttled_us = 0;
    uint64_t tx_bytes = 0, tx_packets = 0, tx_throttled_us = 0;
    RateLimits held_to;  // in each direction
};
// Of its serial console, into console.log.
struct ConsoleStats {
    uint64_t bytes = 0, bytes_max = 0;
    uint64_t dropped_bytes = 0;  // above that
};
struct VsockStats {
    uint64_t connections = 0, connections_max = 0;
    uint64_t buffered_bytes = 0;  // for host programs that are slow
    uint64_t refused = 0;         // connections, at the bound or by the other side
};
// Of its VMM's process.
struct ProcessStats {
    std::optional<uint64_t> open_files;      // descriptors
    std::optional<uint64_t> open_files_max;  // RLIMIT_NOFILE
    std::optional<uint64_t> tasks, tasks_max;
};

// Nothing: not to be known here, and `why_not` says of what and why.
struct SandboxStats {
    SandboxInfo info;
    uint64_t cpu_us = 0;  // of the whole VM
    std::optional<uint64_t> cpu_throttled_us;
    uint64_t memory_bytes = 0;           // that its VMM has, its guest's included
    std::optional<uint64_t> memory_max;  // of the cgroup; 0: none
    std::optional<uint64_t> oom_kills;   // of VMMs, by that
    uint64_t disk_bytes = 0;             // that its own writes take
    uint64_t disk_max = 0;               // the size of the disk that the guest sees
    std::optional<DiskStats> disk;
    std::optional<NetworkStats> network;  // nothing: no card, or not to be known
    std::optional<ConsoleStats> console;
    std::optional<VsockStats> vsock;
    ProcessStats process;
    // Of what runs for its network beside the VM, each in a cgroup of its own
    // (helper_cgroup.h); nothing: it does not run.
    std::optional<CgroupUsage> passt;  // with the keeper of its rules
    std::optional<CgroupUsage> resolver;
    std::optional<AgentUsage> guest;
    std::vector<Unenforced> unenforced;
    std::vector<Unenforced> why_not;
};

// Asks VMM and agent at once, and waits for neither longer than `limit`. Errors: not_found,
// unavailable (its VM has ended).
Result<SandboxStats> sandbox_stats(const Home& home, const SandboxInfo& info,
                                   std::chrono::milliseconds limit);

}  // namespace spore
