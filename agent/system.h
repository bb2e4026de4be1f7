#pragma once

#include <netinet/in.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// Of all commands together; 0: the guest's own bound, or none.
struct CommandLimits {
    uint32_t processes = 0;
    uint64_t memory_bytes = 0;
};
struct GuestUsage {
    CommandLimits used, bound;
    uint64_t root_bytes = 0;
    uint64_t root_bytes_used = 0;
    uint64_t open_files = 0, open_files_max = 0;  // of the whole guest
};

// What the guest's one network interface becomes.
struct NetworkSettings {
    std::optional<std::array<uint8_t, 6>> mac;
    std::optional<in_addr> address;
    uint8_t prefix_bits = 0;
    std::optional<in_addr> gateway;
    std::vector<in_addr> dns;
};

// The control group that commands run in, in a guest.
inline constexpr const char* kCommandCgroup = "/sys/fs/cgroup/commands";
// What of it, and of its siblings, is counted and bounded.
inline constexpr const char* kCgroupControllers = "/sys/fs/cgroup/cgroup.subtree_control";

// Everything that the agent does to the machine it is on, apart from running commands. The guest's
// is GuestSystem; an agent that is not PID 1 of a guest has DetachedSystem, which refuses.
class System {
  public:
    virtual ~System() = default;

    // The kernel's generator has taken these bytes and will use them from the next number on.
    virtual Status add_entropy(std::span<const std::byte> entropy) = 0;
    // Sets CLOCK_REALTIME, in ns since 1970.
    virtual Status step_clock(uint64_t wall_clock_ns) = 0;
    virtual Status set_hostname(const std::string& hostname) = 0;
    virtual Status set_machine_id(const std::string& machine_id) = 0;
    virtual std::string boot_id() = 0;
    // Gives this boot another identity, from the kernel's generator.
    virtual Status renew_boot_id() = 0;
    virtual Status configure_network(const NetworkSettings& settings) = 0;
    // Before a snapshot: gives up the names that no two clones may share, and does beforehand what
    // makes taking others quick. The functions above work without it.
    virtual Status shed_identity() = 0;
    // The control group that commands start in; -1: none.
    virtual int command_cgroup() const { return -1; }
    virtual Status limit_commands(const CommandLimits& limits) = 0;
    virtual Result<GuestUsage> usage() = 0;
    // Its new records, one a read(2), without blocking; none: who ran out of memory is not told.
    virtual UniqueFd kernel_log() const { return {}; }
    // Not one command runs an instruction between these two.
    virtual Status freeze_commands() = 0;
    virtual Status thaw_commands() = 0;
    // Writes every file system's changes to its disk.
    virtual Status sync_disks() = 0;
    virtual Status grow_root(uint64_t disk_bytes) = 0;
    // The agent may end, and with it the machine.
    virtual Status allow_power_off() = 0;
};

// Refuses whatever would change the machine: for an agent run by hand or by a test on a host.
class DetachedSystem : public System {
  public:
    Status add_entropy(std::span<const std::byte>) override { return refuse("entropy"); }
    Status step_clock(uint64_t) override { return refuse("clock"); }
    Status set_hostname(const std::string&) override { return refuse("host name"); }
    Status set_machine_id(const std::string&) override { return refuse("machine ID"); }
    std::string boot_id() override { return "detached"; }
    Status renew_boot_id() override { return refuse("boot ID"); }
    Status configure_network(const NetworkSettings&) override { return refuse("network"); }
    Status shed_identity() override { return refuse("snapshot"); }
    Status limit_commands(const CommandLimits&) override { return refuse("limits"); }
    Result<GuestUsage> usage() override { return std::unexpected(refuse("usage").error()); }
    Status freeze_commands() override { return refuse("snapshot"); }
    Status thaw_commands() override { return refuse("thawing commands"); }
    Status sync_disks() override { return refuse("sync"); }
    Status grow_root(uint64_t) override { return refuse("growing the root file system"); }
    Status allow_power_off() override { return refuse("power off"); }

  private:
    static Status refuse(const char* what) {
        return fail(Code::unavailable,
                    std::string(what) + ": this agent is not PID 1 of a guest (--listen-unix)");
    }
};

}  // namespace spore
