#include "hypervisor/memory/guest_memory.h"

#include <cstdio>

namespace spore {

Result<GuestMemory> GuestMemory::allocate(std::span<const MemoryExtent> extents) {
    std::vector<MemoryRegion> regions;
    uint64_t offset = 0;
    for (const MemoryExtent& extent : extents) {
        auto mapping = TRY(Mapping::create(extent.size, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
        regions.push_back({extent.start, offset, std::move(mapping)});
        offset += extent.size;
    }
    return GuestMemory(std::move(regions));
}

Result<GuestMemory> GuestMemory::map_private(int image, std::span<const MemoryExtent> extents) {
    std::vector<MemoryRegion> regions;
    uint64_t offset = 0;
    for (const MemoryExtent& extent : extents) {
        auto mapping =
            TRY(Mapping::create(extent.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                                image, static_cast<off_t>(offset)));
        regions.push_back({extent.start, offset, std::move(mapping)});
        offset += extent.size;
    }
    return GuestMemory(std::move(regions));
}

uint64_t GuestMemory::size() const {
    uint64_t total = 0;
    for (const MemoryRegion& region : regions_)
        total += region.size();
    return total;
}

Result<std::span<std::byte>> GuestMemory::range(GuestAddress address, uint64_t size) const {
    for (const MemoryRegion& region : regions_) {
        if (address < region.start)
            continue;
        uint64_t offset = address.value() - region.start.value();
        // Both sides stay below 2^64: offset is compared before it is subtracted.
        if (offset <= region.size() && size <= region.size() - offset)
            return region.mapping.span().subspan(offset, size);
    }
    char text[96];
    std::snprintf(text, sizeof(text), "guest range 0x%llx+0x%llx: not in guest memory",
                  static_cast<unsigned long long>(address.value()),
                  static_cast<unsigned long long>(size));
    return fail(Code::invalid_argument, text);
}

Status GuestMemory::write_bytes(GuestAddress address, std::span<const std::byte> bytes) const {
    auto target = TRY(range(address, bytes.size()));
    if (!bytes.empty())
        std::memcpy(target.data(), bytes.data(), bytes.size());
    return {};
}

Status GuestMemory::read_bytes(GuestAddress address, std::span<std::byte> bytes) const {
    auto source = TRY(range(address, bytes.size()));
    if (!bytes.empty())
        std::memcpy(bytes.data(), source.data(), bytes.size());
    return {};
}

}  // namespace spore
