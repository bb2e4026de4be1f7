#pragma once

// The bounds of what a sandbox's quotas may be; limits.h has those that nobody chooses.

#include "hypervisor/base/limits.h"

namespace spore::limits {

// A rate's least and most. Below the least a guest's first command takes minutes; the most is more
// than a device of ours can do.
inline constexpr uint64_t kRateBytesMin = 64 * kKiB;
inline constexpr uint64_t kRateBytesMax = 1024 * kGiB;
inline constexpr uint64_t kRateOperationsMin = 10;
inline constexpr uint64_t kRateOperationsMax = 1'000'000'000;
// What may pass at once after a pause: a tenth of a second's worth, but for slow rates as much as a
// program's start reads, where none is given. It also covers timers that come late.
inline constexpr uint64_t kBurstDivisor = 10;
inline constexpr uint64_t kBurstBytesLeast = 256 * kKiB;
inline constexpr uint64_t kBurstOperationsLeast = 16;

}  // namespace spore::limits
