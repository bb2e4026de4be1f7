#pragma once

// What a sandbox may use: as people write it, as its record has it, and whether it can be had.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/base/rate.h"
#include "hypervisor/base/result.h"

namespace spore {

// 0 and an unlimited rate: no limit but that of the guest's size, or of the host.
struct Quotas {
    uint32_t cpu_max_millis = 0;  // thousandths of a processor; vCPUs and VMM together
    uint32_t cpu_weight = 0;      // share among others where all want more, 1 to 10000; 0: 100
    uint64_t memory_max = 0;      // bytes of the guest's memory
    uint32_t pids_max = 0;        // processes of commands in the guest
    uint64_t disk_max = 0;        // bytes of its disk; 0: what the template has
    RateLimits io;                // of its disk
    RateLimits net;               // of its network card, in each direction

    bool operator==(const Quotas&) const = default;
};

// What a user says of each, as text; "none" takes a limit away, what is not given stays.
struct QuotaWords {
    std::optional<std::string> cpu_max;     // "0.5"
    std::optional<std::string> cpu_weight;  // "200"
    std::optional<std::string> memory_max;  // "512M"
    std::optional<std::string> pids_max;    // "100"
    std::optional<std::string> disk_max;    // "4G"
    std::optional<std::string> io_max;      // parse_rate_limits(), "ops"
    std::optional<std::string> net_max;     // the same, "packets"

    bool any() const {
        return cpu_max || cpu_weight || memory_max || pids_max || disk_max || io_max || net_max;
    }
};

// `base` with what `words` say. Errors: invalid_argument, naming option, value and bound.
Result<Quotas> with_words(Quotas base, const QuotaWords& words);

// What bounds them from above.
struct QuotaBounds {
    uint32_t host_cpus = 0;           // 0: this host is asked, if that matters
    uint64_t guest_memory_bytes = 0;  // of the template; 0: not known, and not compared
    uint64_t disk_bytes = 0;          // that the disk has already; the same
};
// Errors: invalid_argument (below what a guest needs, or its disk has), resource_exhausted (above
// what there is).
Status check_quotas(const Quotas& quotas, const QuotaBounds& bounds);

// Bytes that a spore-vmm may need beside its guest's memory: its own heap and stacks, page tables
// on both sides of KVM (3 x 8 bytes for each page of 4 KiB at most), its disk's map.
uint64_t vmm_overhead_bytes(uint64_t memory_bytes, uint64_t disk_bytes);
// What commands may have of a guest whose memory is to be `memory_max`: its kernel and its agent
// need some.
uint64_t commands_memory_bytes(uint64_t memory_max);

}  // namespace spore
