#pragma once

// The split virtqueue's layout in guest memory (virtio 1.2 §2.7), little-endian as the host is. The
// kernel's linux/virtio_ring.h says the same but is not valid C++.

#include <cstddef>
#include <cstdint>

namespace spore {

// virtio 1.2 §2.7.5
struct VirtqDescriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};
static_assert(sizeof(VirtqDescriptor) == 16);

inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWrite = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;

inline constexpr uint16_t kAvailableNoInterrupt = 1;  // avail ring flags, §2.7.7
inline constexpr uint16_t kUsedNoNotify = 1;          // used ring flags, §2.7.9

// Feature bits of the ring (virtio 1.2 §6).
inline constexpr unsigned kFeatureIndirectDescriptors = 28;
inline constexpr unsigned kFeatureEventIndex = 29;

// Byte offsets within the avail and used rings (§2.7.6, §2.7.8).
inline constexpr size_t kRingFlags = 0;
inline constexpr size_t kRingIndex = 2;
inline constexpr size_t kRingEntries = 4;

// Whether moving the index from `before` to `now` passes `event`, free-running (§2.7.7.2).
constexpr bool passes_event(uint16_t event, uint16_t now, uint16_t before) {
    return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

}  // namespace spore
