#include "hypervisor/boot/layout.h"

#include <algorithm>
#include <cassert>

namespace spore {

std::vector<MemoryExtent> memory_extents(uint64_t bytes) {
    assert(bytes % layout::kPageBytes == 0);
    std::vector<MemoryExtent> extents;
    uint64_t low = std::min(bytes, layout::kHoleStart);
    if (low > 0)
        extents.push_back({GuestAddress(0), low});
    if (bytes > low)
        extents.push_back({GuestAddress(layout::kHoleEnd), bytes - low});
    return extents;
}

std::vector<MemoryMapEntry> memory_map(uint64_t bytes) {
    assert(bytes >= limits::kMemoryBytesMin);
    auto extents = memory_extents(bytes);
    std::vector<MemoryMapEntry> map = {
        {0, layout::kConventionalEnd, MemoryType::ram},
        {layout::kFirmwareStart, layout::kFirmwareEnd - layout::kFirmwareStart,
         MemoryType::reserved},
        {layout::kFirmwareEnd, extents[0].size - layout::kFirmwareEnd, MemoryType::ram},
        {layout::kEcamStart, layout::kEcamBytes, MemoryType::reserved},
    };
    if (extents.size() > 1)
        map.push_back({extents[1].start.value(), extents[1].size, MemoryType::ram});
    return map;
}

}  // namespace spore
