#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

// The agent's duties as PID 1.

// What the kernel's command line asks of the agent.
struct BootOptions {
    std::string root;  // spore.root=vda: a block device, by name or path; empty: /dev/vda if
                       // there is one, else the initramfs stays
    std::string root_type = "ext4";  // spore.rootfstype=
    std::string root_flags;          // spore.rootflags=: options of the file system
    bool read_only = false;          // ro
};

BootOptions parse_boot_options(std::string_view command_line);

// Brings the machine from the kernel's hand-over to where commands can run: mounts, modules, root
// file system, loopback. An error is fatal; what one can live without is only logged.
Status start_machine();

// Mounts the root file system and makes it "/", freeing what the initramfs held. False if there is
// none to mount.
Result<bool> switch_root(const BootOptions& options);

// Loads the modules that /etc/spore/modules lists, one path a line, in that order.
void load_modules();

// Ends every process, writes the disks back and switches the machine off. Does not return.
[[noreturn]] void power_off_machine();

}  // namespace spore
