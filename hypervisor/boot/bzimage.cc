// bzImage kernels by their 64-bit entry (Linux: Documentation/arch/x86/boot.rst). UNTRUSTED: every
// header field. Fuzz target: fuzz-kernel.
#include <asm/bootparam.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "hypervisor/boot/kernel_format.h"

namespace spore {

namespace {

constexpr uint64_t kHeaderOffset = 0x1F1;
constexpr uint64_t kSectorBytes = 512;
constexpr uint16_t kBootFlag = 0xAA55;
constexpr uint16_t kVersionMin = 0x020C;  // 2.12 has xloadflags: whether there is a 64-bit entry
constexpr uint64_t kEntry64 = 0x200;      // from the protected-mode kernel's start
constexpr uint8_t kLoaderUndefined = 0xFF;

static_assert(offsetof(boot_params, hdr) == kHeaderOffset);
static_assert(offsetof(boot_params, acpi_rsdp_addr) == 0x70);
static_assert(offsetof(boot_params, e820_table) == 0x2D0);
static_assert(sizeof(boot_params) == layout::kZeroPageBytes);

uint64_t setup_bytes(const setup_header& header) {
    uint64_t sectors = header.setup_sects == 0 ? 4 : header.setup_sects;
    return (sectors + 1) * kSectorBytes;
}

// The header up to where it says that it ends: what is behind belongs to something else.
Result<setup_header> read_setup_header(const BootFile& file) {
    setup_header header = {};
    // The byte at 0x201 is the offset of the jump over the header, counted from 0x202.
    auto jump = TRY(file.read<uint8_t>(0x201, "the setup header"));
    uint64_t size = std::min<uint64_t>(0x202 + jump - kHeaderOffset, sizeof(header));
    constexpr uint64_t kSizeMin = offsetof(setup_header, handover_offset);
    if (size < kSizeMin)
        return file.corrupt("bzImage setup header of " + std::to_string(size) +
                            " bytes, at least " + std::to_string(kSizeMin));
    TRY(file.read(kHeaderOffset, std::as_writable_bytes(std::span(&header, 1)).first(size),
                  "the setup header"));
    if (header.boot_flag != kBootFlag)
        return file.corrupt("bzImage boot flag " + hex(header.boot_flag) + ", must be " +
                            hex(kBootFlag));
    if (header.version < kVersionMin)
        return fail(Code::invalid_argument,
                    file.name() + ": boot protocol " + std::to_string(header.version >> 8) + "." +
                        std::to_string(header.version & 0xFF) + ", at least 2.12");
    if ((header.loadflags & LOADED_HIGH) == 0 || (header.xloadflags & XLF_KERNEL_64) == 0)
        return fail(Code::invalid_argument,
                    file.name() + ": bzImage without a 64-bit entry (loadflags " +
                        hex(header.loadflags) + ", xloadflags " + hex(header.xloadflags) + ")");
    return header;
}

}  // namespace

Result<LoadedKernel> load_bzimage(const GuestMemory& memory, const BootFile& file) {
    auto header = TRY(read_setup_header(file));
    uint64_t size = uint64_t{header.syssize} * 16;
    uint64_t offset = setup_bytes(header);
    // Loaded where it prefers to be: lower, and it would unpack itself there all the same.
    uint64_t start = header.pref_address;
    uint64_t end = 0;
    if (size <= kEntry64)
        return file.corrupt("bzImage kernel of " + std::to_string(size) + " bytes, more than " +
                            std::to_string(kEntry64) + " are needed");
    if (start % layout::kPageBytes != 0)
        return file.corrupt("bzImage load address " + hex(start) + " is not a multiple of " +
                            hex(layout::kPageBytes));
    if (__builtin_add_overflow(start, std::max<uint64_t>(header.init_size, size), &end))
        return file.corrupt("bzImage load address " + hex(start) + ": beyond 2^64");
    TRY(check_kernel_range(memory, file, start, end, "the kernel"));
    TRY(file.load(memory, GuestAddress(start), offset, size, "the kernel"));

    LoadedKernel kernel;
    kernel.protocol = BootProtocol::linux64;
    kernel.entry = start + kEntry64;
    kernel.end = end;
    kernel.initrd_end_max = uint64_t{header.initrd_addr_max} + 1;
    kernel.command_line_max = header.cmdline_size;
    return kernel;
}

Status write_zero_page(const GuestMemory& memory, const BootFile& file,
                       const LoadedInitrd& initrd) {
    boot_params params = {};
    params.hdr = TRY(read_setup_header(file));
    params.hdr.type_of_loader = kLoaderUndefined;
    params.hdr.vid_mode = 0xFFFF;  // "normal"
    params.hdr.setup_data = 0;     // ours to give, not the file's
    params.hdr.cmd_line_ptr = static_cast<uint32_t>(layout::kCommandLine);
    params.hdr.ramdisk_image = static_cast<uint32_t>(initrd.start);
    params.hdr.ramdisk_size = static_cast<uint32_t>(initrd.size);
    // Read from protocol 2.14 on; an older kernel finds the RSDP by scanning.
    params.acpi_rsdp_addr = layout::kRsdp;
    for (const MemoryMapEntry& entry : memory_map(memory.size())) {
        boot_e820_entry& written = params.e820_table[params.e820_entries++];
        written.addr = entry.start;
        written.size = entry.size;
        written.type = static_cast<uint32_t>(entry.type);
    }
    return memory.write(GuestAddress(layout::kZeroPage), params);
}

Status write_page_tables(const GuestMemory& memory) {
    constexpr uint64_t kPresentWritable = 0x3;
    constexpr uint64_t kLargePage = 0x80;
    constexpr uint64_t kLargePageBytes = 2 * limits::kMiB;
    constexpr uint64_t kDirectories = layout::kPageTables + 2 * layout::kPageBytes;
    using Table = std::array<uint64_t, 512>;
    Table top = {};
    top[0] = (layout::kPageTables + layout::kPageBytes) | kPresentWritable;
    TRY(memory.write(GuestAddress(layout::kPageTables), top));
    Table pointers = {};
    for (uint64_t gib = 0; gib < 4; gib++) {
        pointers[gib] = (kDirectories + gib * layout::kPageBytes) | kPresentWritable;
        Table directory = {};
        for (uint64_t index = 0; index < directory.size(); index++)
            directory[index] =
                (gib * directory.size() + index) * kLargePageBytes | kPresentWritable | kLargePage;
        TRY(memory.write(GuestAddress(kDirectories + gib * layout::kPageBytes), directory));
    }
    return memory.write(GuestAddress(layout::kPageTables + layout::kPageBytes), pointers);
}

}  // namespace spore
