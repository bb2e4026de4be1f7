#pragma once

// The two kernel formats behind load_kernel(); nobody else includes this.

#include <cstdint>

#include "hypervisor/boot/boot_file.h"
#include "hypervisor/boot/kernel.h"
#include "hypervisor/boot/layout.h"

namespace spore {

// What the loader of a format found, for the steps after it.
struct LoadedKernel {
    BootProtocol protocol = BootProtocol::pvh;
    uint64_t entry = 0;
    uint64_t end = 0;               // first byte behind all that the kernel takes before it runs
    uint64_t initrd_end_max = 0;    // first byte behind the highest place for an initrd
    uint64_t command_line_max = 0;  // bytes, without the terminating zero
};

struct LoadedInitrd {
    uint64_t start = 0;
    uint64_t size = 0;  // 0: none
};

// First byte behind the RAM below the hole.
uint64_t low_memory_end(const GuestMemory& memory);

// invalid_argument naming both unless [start, end) is RAM from kKernelMin on, below the hole.
Status check_kernel_range(const GuestMemory& memory, const BootFile& file, uint64_t start,
                          uint64_t end, std::string_view what);

// ELF64 with a PVH entry note.
Result<LoadedKernel> load_elf(const GuestMemory& memory, const BootFile& file);
Status write_start_info(const GuestMemory& memory, const LoadedInitrd& initrd);

// bzImage, boot protocol 2.12 or later with the 64-bit entry.
Result<LoadedKernel> load_bzimage(const GuestMemory& memory, const BootFile& file);
Status write_zero_page(const GuestMemory& memory, const BootFile& file, const LoadedInitrd& initrd);
Status write_page_tables(const GuestMemory& memory);

}  // namespace spore
