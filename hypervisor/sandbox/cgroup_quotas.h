#pragma once

// Quotas in a sandbox's cgroup, or for what the host has in cgroup v1 in its counterparts
// (jail/cgroup_v1.h): what counts its processor time and memory and holds it to its
// share of them, against a guest whose kernel is hostile too.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

// 0: no limit (of a weight: the default).
struct CgroupQuotas {
    uint32_t cpu_max_millis = 0;
    uint32_t cpu_weight = 0;
    uint64_t memory_max = 0;  // of the whole process, what it has mapped for its guest included
    uint64_t tasks_max = 0;   // threads, the ring's workers among them

    bool operator==(const CgroupQuotas&) const = default;
};

// A limit that this host does not hold, and why.
struct Unenforced {
    std::string name;
    std::string why;
};

// What can be done before there is any. Errors: the host's.
Status prepare_cgroup_quotas(const std::filesystem::path& directory);
// Sets those of `quotas` that are limits in the cgroup at `directory` (empty: there is none), and
// takes away what `before` had set and they do not have. Gives back which of them could not be had;
// a controller that is not there is no error. Errors: the host's.
Result<std::vector<Unenforced>> set_cgroup_quotas(const std::filesystem::path& directory,
                                                  const CgroupQuotas& quotas,
                                                  const CgroupQuotas& before = {});

// What it has used, and what it is held to. Nothing: the controller is not there.
struct CgroupUsage {
    std::optional<uint64_t> cpu_us;
    std::optional<uint64_t> throttled_us;
    std::optional<uint64_t> memory_bytes;
    std::optional<uint64_t> memory_max;  // 0: none
    std::optional<uint64_t> tasks;
    std::optional<uint64_t> tasks_max;       // 0: none
    std::optional<uint64_t> cpu_max_millis;  // 0: none
    std::optional<uint64_t> oom_kills;
};
CgroupUsage read_cgroup_usage(const std::filesystem::path& directory);

}  // namespace spore
