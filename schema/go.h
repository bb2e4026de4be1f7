#pragma once

// What a waiting clone waits for: whoever takes it writes this into its FIFO, in one write(2), and
// its first vCPU's thread reads it (hypervisor/vmm/machine_start.cc). Both come from one build and
// one host, so a plain struct does; a clone of an earlier build has a FIFO of another name.

#include <cstdint>
#include <type_traits>

#include "hypervisor/base/rate.h"

namespace spore {

struct CloneGo {
    // The first eight bytes alone, as an eventfd has them, are a go without limits.
    uint64_t word = 1;
    // They hold before its devices do anything.
    RateLimits disk;     // of each disk
    RateLimits network;  // of each network card, in each direction
};
static_assert(sizeof(CloneGo) == 8 + 2 * 32 && std::is_trivially_copyable_v<CloneGo>);

}  // namespace spore
