#pragma once

// The command line of spore-vmm; `spore run` takes the same options and hands them over.

#include <string>
#include <vector>

#include "hypervisor/vmm/config.h"

namespace spore {

struct VmmOptions {
    MachineConfig machine;
    std::string restore_directory;  // a snapshot to go on from; kernel and sizes come from it
    bool sealed = false;            // its files must be what its seal says (snapshot/seal.h)
    std::string control_path;       // control socket; empty: none
    std::string serial = "stdio";   // "stdio", "none" or "file:PATH"
    std::string log_level = "warn";
    int ready_fd = -1;  // where one line tells the caller that the machine runs, or why not
    bool start_paused = false;
    bool cpu_checked = false;  // the snapshot's CPU has run on this host: see host_mark.h
    bool stage_times = false;  // note where the time of a restore goes (stage_timer.h)
    int zygote_fd = -1;        // a socket to a pool's keeper: make workers as it asks (zygote.h)
    std::string working_set_path;  // of a clone: where its working set goes at its end
    bool jail =
        false;  // a clone, or a zygote and its clones, is jailed before it reads the snapshot
    std::string cgroup;  // with jail: the cgroup that this process was started in, or why in none
    bool help = false;
};

// Errors: invalid_argument, naming option, value and bound.
Result<VmmOptions> parse_vmm_options(int argc, char** argv);

// What --help prints.
std::string_view vmm_help();

}  // namespace spore
