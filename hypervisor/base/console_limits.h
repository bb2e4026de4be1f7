#pragma once

// What of a guest's serial console is kept.

#include "hypervisor/base/limits.h"

namespace spore::limits {

// What may wait for a terminal that does not scroll.
inline constexpr size_t kConsoleWaitingBytesMax = 1 * kMiB;
// A guest that chatters for ever fills no disk, and takes little of the memory that sandboxes'
// directories are in.
inline constexpr uint64_t kConsoleLogBytesMax = 1 * kMiB;

}  // namespace spore::limits
