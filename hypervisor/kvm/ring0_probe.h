#pragma once

// How fast this host runs a guest's kernel code.

#include "hypervisor/base/result.h"

namespace spore {

// Above this a Linux guest is not worth starting. A stock kernel's boot is 1 to 2 thousand million
// instructions in ring 0: at 50 ns each a minute or two. Measured: real hardware below 1 ns; a KVM
// inside QEMU's TCG about 5 ns, where Linux guests work; a KVM that interprets ring 0 (kvm-pvm)
// 700 to 900 ns, where none does.
inline constexpr double kRing0NsMax = 50;

struct Ring0Speed {
    double ns_per_instruction = 0;
    bool runs_linux = false;  // ns_per_instruction is at most kRing0NsMax
};

// Runs a bounded loop of two instructions in ring 0 of a guest of its own, in long mode as a kernel
// would, on the calling thread; takes less than half a second. Errors: those of Kvm::open(), and
// host_unsupported if the guest does not get through.
Result<Ring0Speed> measure_ring0();

}  // namespace spore
