#pragma once

#include <optional>
#include <string>

#include "agent/system.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// The System of an agent that is PID 1 of a guest: it changes the running kernel and the files
// under /etc. Where the root file system is read-only, files are bound over from /run.
class GuestSystem : public System {
  public:
    // Makes the control group that commands run in. Without cgroup2 commands run, and may not be
    // snapshotted.
    Status open();

    Status add_entropy(std::span<const std::byte> entropy) override;
    Status step_clock(uint64_t wall_clock_ns) override;
    Status set_hostname(const std::string& hostname) override;
    Status set_machine_id(const std::string& machine_id) override;
    std::string boot_id() override;
    Status renew_boot_id() override;
    Status configure_network(const NetworkSettings& settings) override;
    int command_cgroup() const override { return cgroup_.get(); }
    Status limit_commands(const CommandLimits& limits) override;
    Result<GuestUsage> usage() override;
    UniqueFd kernel_log() const override;
    Status shed_identity() override;
    Status freeze_commands() override;
    Status thaw_commands() override;
    Status sync_disks() override;
    Status grow_root(uint64_t disk_bytes) override;
    Status allow_power_off() override { return {}; }

  private:
    Status reserve_processes();
    Status count_memory();
    Status write_hostname_files(const std::string& hostname);

    UniqueFd cgroup_;
    uint32_t processes_most_ = 0;  // what commands may have at most, others' reserve taken off
    bool counts_memory_ = false;   // of commands: there is a memory.max
    bool frozen_ = false;          // there were commands to freeze
    UniqueFd boot_id_;             // the file over the kernel's, once it is bound
    // Of shed_identity:
    UniqueFd random_;
    std::optional<std::string> hosts_;  // hosts(5) without this machine's line
};

// Brings the loopback interface up.
Status raise_loopback();

}  // namespace spore
