#pragma once

// A snapshot on its way to a machine, in two steps with the jail between them: its files are
// opened (by names that our own command line has), then read and checked (where nothing can be
// opened any more).

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/block/layered_disk.h"
#include "hypervisor/base/made_files.h"
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/memory/guest_memory.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/working_set.h"
#include "hypervisor/vmm/config.h"

namespace spore {

// What all clones of a snapshot share. Nothing of it has been read.
struct SnapshotFiles {
    struct Layer {
        DiskFile file;
        UniqueFd map;  // none: a raw image, below everything
        std::string map_name;
    };

    std::string directory;
    UniqueFd state;
    UniqueFd memory;
    UniqueFd working_set;       // none: the snapshot has none
    bool exact_faults = false;  // what is touched is to be told, page by page
    // For each disk that the command line has layers for, those, lowest first, and the snapshot's
    // own last. Other disks' are opened by the paths that the state names, which a jail forbids.
    std::vector<std::vector<Layer>> disks;
};

// Opens `directory`'s state and memory, and the layers that `disks` name. With `sealed` the large
// ones must be what the seal in `directory` says (hypervisor/snapshot/seal.h). Errors: the files';
// corrupt (the seal).
Result<SnapshotFiles> open_snapshot(const std::string& directory, std::span<const DiskConfig> disks,
                                    bool sealed);

// A snapshot read and checked: machines are made of it. In a zygote it is there once for all the
// workers, whose forks share its pages.
struct LoadedSnapshot {
    struct Disk {
        std::optional<DiskFile> base;
        std::vector<LayeredDisk::Layer> layers;
        std::vector<DiskState::Layer>
            paths;  // of all of these, as a clone's own snapshot names them
    };

    MachineState state;
    WorkingSet working_set;   // no runs: not known
    GuestMemory memory;       // mapped privately: what a clone writes is its own
    std::vector<Disk> disks;  // of the layered ones, in order
};

// Reads and checks all that `files` hold; on this host's `kvm` it will run, which is not asked
// where somebody has seen it run. Errors: corrupt, version_mismatch, the files' and KVM's.
Result<LoadedSnapshot> load_snapshot(SnapshotFiles files, const Kvm& kvm, bool cpu_checked);

// What a clone has for itself, opened before the jail, in the order of the snapshot's devices.
struct CloneFiles {
    // For each disk: the top of a layered one (empty file: it is made as large as the disk), or the
    // raw one itself. Disks beyond these get an unnamed top, or the file that the state names.
    std::vector<DiskFile> disks;
    std::vector<NetworkConfig> networks;
    std::vector<UniqueFd> network_files;  // in a jail, of each: its tap, or its connected socket
    UniqueFd vsock;                       // a bound Unix stream socket, in a jail; else
    std::string vsock_path;               // where the socket is to be made
    RateLimits disk_rate, network_rate;   // as MachineConfig's
    UniqueFd go;  // what the clone waits for a word from, if it is to wait; none: its own
    MadeFiles made;
};

// Opens what `config` names for a clone; files for disks' tops that are not there are made. In a
// jail no name can be used any more: with `for_jail` the vsock socket is bound here, what was made
// stays, and guests' connections to the host are refused. Errors: the files'.
Result<CloneFiles> open_clone_files(const MachineConfig& config, bool for_jail);

}  // namespace spore
