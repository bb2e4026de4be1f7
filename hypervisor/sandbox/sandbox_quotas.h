#pragma once

// A sandbox's quotas put into force: in its cgroup, in its devices, in its guest.

#include <chrono>
#include <filesystem>
#include <optional>
#include <vector>

#include "hypervisor/sandbox/agent_client.h"
#include "hypervisor/sandbox/cgroup_quotas.h"
#include "hypervisor/sandbox/quotas.h"
#include "hypervisor/sandbox/vmm_client.h"

namespace spore {

// Of a template's guest, where it is known; 0: not.
struct GuestSize {
    uint64_t memory_bytes = 0;
    uint64_t disk_bytes = 0;
};

// What the cgroup of such a guest's spore-vmm is held to, whoever made it: its memory with the
// stated overhead, its threads, and what `quotas` say. Without a size memory is left out.
CgroupQuotas cgroup_quotas(const Quotas& quotas, const GuestSize& size);
// spore-vmm's options for the rates of its devices.
std::vector<std::string> rate_arguments(const Quotas& quotas);
// What the guest's agent is to be told, if anything has changed.
std::optional<AgentLimits> agent_limits(const Quotas& quotas, const Quotas& before);

// A change from one set of quotas to another in two halves, so that nobody waits for the VMM's
// answer while there is a guest to wait for.
class QuotaChange {
  public:
    using Deadline = std::chrono::steady_clock::time_point;

    // Writes the cgroup, and asks the VMM whose sockets are in `directory`. Errors: the host's,
    // unavailable.
    // A disk grows, and is never made smaller: not to go back to `before` either.
    static Result<QuotaChange> begin(const std::filesystem::path& directory, const Quotas& before,
                                     const Quotas& after, const GuestSize& size);
    // The VMM has done it. Errors: what it answers, timeout.
    Status finish(Deadline deadline);
    // What the agent is to be asked for then: the file system's growth to so many bytes; 0:
    // nothing.
    uint64_t disk_bytes() const { return disk_bytes_; }
    // Which of them this host does not hold.
    const std::vector<Unenforced>& unenforced() const { return unenforced_; }

  private:
    std::vector<Unenforced> unenforced_;
    std::optional<VmmClient> vmm_;
    uint64_t disk_bytes_ = 0;
};

}  // namespace spore
