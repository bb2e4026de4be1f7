#pragma once

// Cgroups of what runs for a sandbox's network beside its VM: passt with the keeper of its rules,
// the resolver. Each has one of its own, so that what a guest makes them do is bounded as the VM
// is, and so that none of them, nor the VM, is ended for another's want of memory. Links in the
// sandbox's directory name them, as cgroup_spot.h has it.

#include <filesystem>
#include <string>

#include "hypervisor/sandbox/cgroup_spot.h"
#include "hypervisor/sandbox/quotas.h"

namespace spore {

enum class Helper { passt, resolver };

// The processor as the sandbox's --cpu-max has it, but not less than they need to answer in time,
// nor more than one; its --cpu-weight; memory and tasks as network_limits.h has them.
CgroupQuotas helper_quotas(Helper helper, const Quotas& quotas);
// For one that is to be started; the last one's is removed.
CgroupSpot make_helper_spot(const std::filesystem::path& directory, Helper helper,
                            const Quotas& quotas);
// Of those that there are. Errors: the host's.
Status change_helpers(const std::filesystem::path& directory, const Quotas& before,
                      const Quotas& after);
// Kills them, and removes their cgroups or leaves them to the next sweep.
void end_helpers(const std::filesystem::path& directory);
// What that one has used, all of it together, and what it is held to.
CgroupUsage helper_usage(const std::filesystem::path& directory, Helper helper);
// Why that one is not held to helper_quotas(); empty: it is.
std::string why_helper_is_free(const std::filesystem::path& directory, Helper helper);
// The same of one to come.
std::string why_helpers_will_be_free();

}  // namespace spore
