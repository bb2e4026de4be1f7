// UNTRUSTED: kernel and initrd files. Fuzz target: fuzz-kernel.
#include "hypervisor/boot/kernel.h"

#include <elf.h>

#include <algorithm>
#include <array>

#include "hypervisor/boot/kernel_format.h"

namespace spore {

namespace {

constexpr uint64_t kBzImageMagicOffset = 0x202;  // Documentation/arch/x86/boot.rst
constexpr uint32_t kBzImageMagic = 0x53726448;   // "HdrS"

Result<LoadedKernel> load_any(const GuestMemory& memory, const BootFile& file) {
    if (file.size() == 0)
        return file.corrupt("empty");
    std::array<char, SELFMAG> magic = {};
    if (file.size() >= magic.size())
        TRY(file.read(0, std::as_writable_bytes(std::span(magic)), "the magic number"));
    if (std::string_view(magic.data(), magic.size()) == ELFMAG)
        return load_elf(memory, file);
    if (file.size() >= kBzImageMagicOffset + sizeof(kBzImageMagic)) {
        auto header = TRY(file.read<uint32_t>(kBzImageMagicOffset, "the setup header"));
        if (header == kBzImageMagic)
            return load_bzimage(memory, file);
    }
    return fail(Code::invalid_argument,
                file.name() + ": not a kernel: neither an ELF file nor a bzImage");
}

Status write_command_line(const GuestMemory& memory, std::string_view text, uint64_t bytes_max) {
    if (text.find('\0') != text.npos)
        return fail(Code::invalid_argument,
                    "kernel command line: has a zero byte at " + std::to_string(text.find('\0')));
    bytes_max = std::min(bytes_max, limits::kCommandLineBytesMax - 1);
    if (text.size() > bytes_max)
        return fail(Code::invalid_argument, "kernel command line: " + std::to_string(text.size()) +
                                                " bytes, this kernel takes at most " +
                                                std::to_string(bytes_max));
    GuestAddress address(layout::kCommandLine);
    TRY(memory.write_bytes(address, std::as_bytes(std::span(text))));
    return memory.write(GuestAddress(layout::kCommandLine + text.size()), char{0});
}

// As high as it goes, so that the kernel below has room to unpack itself.
Result<LoadedInitrd> load_initrd(const GuestMemory& memory, const KernelSource& source,
                                 const LoadedKernel& kernel) {
    if (source.initrd < 0)
        return LoadedInitrd{};
    auto file = TRY(BootFile::open(source.initrd, source.initrd_name));
    if (file.size() == 0)
        return file.corrupt("empty");
    uint64_t end = std::min(low_memory_end(memory), kernel.initrd_end_max);
    uint64_t room = end > kernel.end ? end - kernel.end : 0;
    // One page less, for the start is rounded down to one.
    if (file.size() + layout::kPageBytes > room)
        return fail(Code::invalid_argument, file.name() + ": initrd of " +
                                                std::to_string(file.size()) +
                                                " bytes does not fit between the kernel's end at " +
                                                hex(kernel.end) + " and " + hex(end));
    uint64_t start = (end - file.size()) & ~(layout::kPageBytes - 1);
    TRY(file.load(memory, GuestAddress(start), 0, file.size(), "the initrd"));
    return LoadedInitrd{start, file.size()};
}

// Null, code for 32 bits, code for 64, data: selectors 0x10 and 0x18 are the boot protocol's
// __BOOT_CS and __BOOT_DS.
Status write_gdt(const GuestMemory& memory) {
    constexpr std::array<uint64_t, 4> kDescriptors = {
        0,
        0x00CF'9B00'0000'FFFF,  // limit 4 GiB, 32-bit code, readable, accessed
        0x00AF'9B00'0000'FFFF,  // limit 4 GiB, 64-bit code, readable, accessed
        0x00CF'9300'0000'FFFF,  // limit 4 GiB, data, writable, accessed
    };
    static_assert(sizeof(kDescriptors) == layout::kGdtBytes);
    return memory.write(GuestAddress(layout::kGdt), kDescriptors);
}

}  // namespace

uint64_t low_memory_end(const GuestMemory& memory) {
    const auto& regions = memory.regions();
    return regions.empty() ? 0 : std::min(regions[0].size(), layout::kHoleStart);
}

Status check_kernel_range(const GuestMemory& memory, const BootFile& file, uint64_t start,
                          uint64_t end, std::string_view what) {
    uint64_t limit = low_memory_end(memory);
    if (start >= layout::kKernelMin && start <= end && end <= limit)
        return {};
    return fail(Code::invalid_argument,
                file.name() + ": " + std::string(what) + " takes " + hex(start) + "-" + hex(end) +
                    ", the guest's memory for it is " + hex(layout::kKernelMin) + "-" + hex(limit));
}

Result<BootState> load_kernel(const GuestMemory& memory, const KernelSource& source) {
    auto file = TRY(BootFile::open(source.kernel, source.kernel_name));
    auto kernel = TRY(load_any(memory, file));
    TRY(write_command_line(memory, source.command_line, kernel.command_line_max));
    auto initrd = TRY(load_initrd(memory, source, kernel));
    TRY(write_gdt(memory));
    if (kernel.protocol == BootProtocol::pvh) {
        TRY(write_start_info(memory, initrd));
    } else {
        TRY(write_zero_page(memory, file, initrd));
        TRY(write_page_tables(memory));
    }
    BootState state;
    state.protocol = kernel.protocol;
    state.entry = GuestAddress(kernel.entry);
    state.info =
        GuestAddress(kernel.protocol == BootProtocol::pvh ? layout::kStartInfo : layout::kZeroPage);
    state.kernel_end = kernel.end;
    state.initrd_start = GuestAddress(initrd.start);
    state.initrd_bytes = initrd.size;
    return state;
}

}  // namespace spore
