#include "hypervisor/memory/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>

// Since Linux 5.14; older headers do not have them.
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

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

Result<bool> GuestMemory::populate(uint64_t offset, uint64_t size, Access access) const {
    int advice = access == Access::write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    for (const MemoryRegion& region : regions_) {
        uint64_t begin = std::max(offset, region.file_offset);
        uint64_t region_end = region.file_offset + region.size();
        if (size == 0 || begin != offset || begin >= region_end)
            continue;
        uint64_t here = std::min(size, region_end - begin);
        std::byte* address = region.mapping.data() + (begin - region.file_offset);
        int done = 0;
        do {
            done = ::madvise(address, here, advice);
        } while (done != 0 && errno == EINTR);
        if (done != 0 && errno == EINVAL)
            return false;
        if (done != 0)
            return fail_errno("guest memory: populating " + std::to_string(here) +
                              " bytes of the image from " + std::to_string(begin));
        offset += here;
        size -= here;
    }
    if (size != 0)
        return fail(Code::invalid_argument, "guest memory: there are no " + std::to_string(size) +
                                                " bytes of the image from " +
                                                std::to_string(offset));
    return true;
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
