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

// Of a processor. Less, and a command's start takes many periods; a quota is 1 ms at least for
// Linux.
inline constexpr uint32_t kCpuMaxMillisMin = 50;
inline constexpr uint32_t kCpuPeriodUs = 20'000;
static_assert(uint64_t{kCpuPeriodUs} * kCpuMaxMillisMin / 1000 >= 1000);
inline constexpr uint32_t kCpuWeightMax = 10'000;  // cgroup v2's
inline constexpr uint32_t kCpuWeightDefault = 100;
inline constexpr uint32_t kCpuSharesDefault = 1024;  // what cgroup v1 calls the same

// A guest's memory that is limited below its size: what its kernel and agent have, and what is left
// to commands at the least.
inline constexpr uint64_t kGuestOwnBytes = 48 * kMiB;
inline constexpr uint64_t kMemoryMaxMin = 64 * kMiB;
static_assert(kMemoryMaxMin > kGuestOwnBytes + 8 * kMiB);

// Processes of commands: a shell with a pipe or two needs some; the guest's own bound is the most.
inline constexpr uint32_t kPidsMaxMin = 8;
inline constexpr uint32_t kPidsMaxMax = 4'194'304;  // Linux's PID_MAX_LIMIT

// Of a disk's size: a cluster of the layers, and the most that a guest's pages can be.
inline constexpr uint64_t kDiskMaxUnit = 4 * kKiB;

// spore-vmm beside its guest's memory, before what grows with that and with the disk.
inline constexpr uint64_t kVmmOwnBytes = 48 * kMiB;

}  // namespace spore::limits
