#pragma once

// Which cgroup belongs to what runs in a sandbox's directory: a link there, made before the cgroup
// and going with the directory wherever that is renamed to, says it.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/jail/cgroup.h"
#include "hypervisor/sandbox/cgroup_quotas.h"

namespace spore {

inline constexpr const char* kCgroupLink = "cgroup";

// Where a process is to be started: in a cgroup, or why in none.
class CgroupSpot {
  public:
    // A cgroup for what will run in `directory`, or the reason why the host has none for it.
    // `quotas` hold from the process's first instruction on, as far as the host has controllers.
    // `link`: the name by which the directory knows it.
    static CgroupSpot make(const std::filesystem::path& directory, const CgroupQuotas& quotas = {},
                           const char* link = kCgroupLink);

    // Of the cgroup's directory, or -1.
    int handle() const { return cgroup_ ? cgroup_->handle.get() : -1; }
    // Its path, or why there is none: what spore-vmm's --cgroup takes.
    const std::string& text() const { return text_; }
    // For a process to move itself into the counterparts of cgroup v1, which hold the limits that
    // the cgroup cannot (open_cgroups_v1). None where the host has none, or there are no limits.
    std::vector<UniqueFd> open_v1(unsigned user) const;
    // To be called when a process is in the cgroup, and a second time when it is in its
    // counterparts: it is safe from sweeping then.
    void forked();
    void started();
    // It is not: what was started is in no cgroup of its own.
    void missed(std::string why);
    // For a worker that a zygote without rights is to fork into it. Where that cannot be, the spot
    // is none from here on.
    void open_to_zygote();

  private:
    std::optional<CgroupPlace> place_;
    std::optional<Cgroup> cgroup_;
    bool has_v1_ = false;
    std::string text_;
};

// The cgroup that the link in `directory` names; empty: there is none.
std::filesystem::path cgroup_of_directory(const std::filesystem::path& directory,
                                          const char* link = kCgroupLink);
// Removes what a process that has ended has left there: `directory`, and the cgroup if the kernel
// is through with the process already; else the next clear_cgroups() does.
Status remove_sandbox_tree(const std::filesystem::path& directory);
// Removes all cgroups of Spore's on this host that nothing is in, and names of users that nobody
// is.
void clear_cgroups();

}  // namespace spore
