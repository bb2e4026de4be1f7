#pragma once

// Where a guest in 64-bit mode has mapped its memory: its page tables, read from outside (SDM 3A
// §4.5, four levels). UNTRUSTED: the tables are the guest's; what they say is looked up through
// GuestMemory, and as many of them as the limit allows. Fuzz target: fuzz-page-tables.

#include <optional>
#include <span>
#include <vector>

#include "hypervisor/memory/guest_memory.h"

namespace spore {

// Bytes that are contiguous in the guest's linear addresses and in its memory.
struct MappedRange {
    uint64_t linear = 0;
    GuestAddress start;
    uint64_t size = 0;
    bool operator==(const MappedRange&) const = default;
};

// The guest does not run meanwhile.
class PageTables {
  public:
    PageTables(const GuestMemory& memory, uint64_t cr3) : memory_(memory), cr3_(cr3) {}

    struct Found {
        // What is not mapped is missing. In the order of linear addresses.
        std::vector<MappedRange> ranges;
        std::optional<MappedRange> code;  // the first page that the kernel may execute
    };

    // Where the kernel's half of the linear addresses, for its use alone, has `wanted` (whole
    // pages, ascending, disjoint), as far as limits::kGuestTablesMax tables tell.
    Found find(std::span<const MemoryExtent> wanted) const;

  private:
    const GuestMemory& memory_;
    uint64_t cr3_;
};

}  // namespace spore
