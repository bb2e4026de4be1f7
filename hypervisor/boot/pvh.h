#pragma once

// The PVH boot ABI's structures (xen: docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h).

#include <cstdint>

namespace spore::pvh {

// ELF note that holds the 32-bit entry point (public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY).
inline constexpr uint32_t kNotePhys32Entry = 18;
inline constexpr char kNoteName[] = "Xen";

struct StartInfo {
    uint32_t magic = 0x336e'c578;
    uint32_t version = 1;  // with the memory map
    uint32_t flags = 0;
    uint32_t module_count = 0;
    uint64_t modules = 0;
    uint64_t command_line = 0;
    uint64_t rsdp = 0;
    uint64_t memory_map = 0;
    uint32_t memory_map_entries = 0;
    uint32_t reserved = 0;
};
static_assert(sizeof(StartInfo) == 56);

struct Module {
    uint64_t start = 0;
    uint64_t size = 0;
    uint64_t command_line = 0;
    uint64_t reserved = 0;
};
static_assert(sizeof(Module) == 32);

struct MemoryMapEntry {
    uint64_t start = 0;
    uint64_t size = 0;
    uint32_t type = 0;
    uint32_t reserved = 0;
};
static_assert(sizeof(MemoryMapEntry) == 24);

}  // namespace spore::pvh
