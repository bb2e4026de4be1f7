// A guest's page tables: 64 KiB of memory that is the input, with the tables anywhere in it. What
// is found is wanted, in memory, each byte once.
#include <cstdlib>

#include "hypervisor/memory/page_tables.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    constexpr uint64_t kBytes = 64 << 10, kPage = 4096;
    static const MemoryExtent kExtents[] = {{GuestAddress(0), kBytes}};
    auto memory = GuestMemory::allocate(kExtents);
    if (!memory || size < sizeof(uint64_t))
        return 0;
    uint64_t cr3 = 0;
    std::memcpy(&cr3, data, sizeof(cr3));
    // Repeated: a table is found wherever an entry points.
    size_t bytes = size - sizeof(cr3);
    for (uint64_t at = 0; bytes != 0 && at + bytes <= kBytes; at += bytes) {
        if (!memory->write_bytes(GuestAddress(at),
                                 std::as_bytes(std::span(data + sizeof(cr3), bytes))))
            std::abort();
    }
    PageTables tables(*memory, cr3);
    const MemoryExtent wanted[] = {{GuestAddress(kPage), 2 * kPage},
                                   {GuestAddress(8 * kPage), kPage},
                                   {GuestAddress(kBytes - kPage), 1024 * kPage}};
    uint64_t total = 0;
    auto found = tables.find(wanted);
    if (found.code && !memory->range(found.code->start, kPage))
        std::abort();
    for (const MappedRange& range : found.ranges) {
        bool is_wanted = false;
        for (const MemoryExtent& extent : wanted)
            is_wanted |= range.start >= extent.start &&
                         range.start.value() + range.size <= extent.start.value() + extent.size;
        if (!is_wanted || range.size == 0 || range.size % kPage != 0 || range.linear % kPage != 0 ||
            range.linear >> 47 != 0x1ffff)
            std::abort();
        total += range.size;
    }
    if (total > 1027 * kPage)
        std::abort();
    return 0;
}
