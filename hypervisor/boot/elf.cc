// ELF64 kernels with the PVH entry. UNTRUSTED: every header field. Fuzz target: fuzz-kernel.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "hypervisor/boot/kernel_format.h"
#include "hypervisor/boot/pvh.h"

namespace spore {

namespace {

// A vmlinux has four or five program headers, and notes of about 500 bytes.
constexpr uint32_t kProgramHeadersMax = 64;
constexpr uint64_t kNoteBytesMax = 64 * limits::kKiB;

Result<Elf64_Ehdr> read_header(const BootFile& file) {
    auto header = TRY(file.read<Elf64_Ehdr>(0, "the ELF header"));
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != EM_X86_64)
        return fail(Code::invalid_argument,
                    file.name() + ": ELF class " + std::to_string(header.e_ident[EI_CLASS]) +
                        ", data " + std::to_string(header.e_ident[EI_DATA]) + ", machine " +
                        std::to_string(header.e_machine) + ": a kernel for x86-64 has 2, 1 and 62");
    if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
        return fail(
            Code::invalid_argument,
            file.name() + ": ELF type " + std::to_string(header.e_type) + ", a kernel has 2 or 3");
    if (header.e_phentsize != sizeof(Elf64_Phdr))
        return file.corrupt("ELF program headers of " + std::to_string(header.e_phentsize) +
                            " bytes, must be " + std::to_string(sizeof(Elf64_Phdr)));
    if (header.e_phnum == 0 || header.e_phnum > kProgramHeadersMax)
        return file.corrupt(std::to_string(header.e_phnum) + " ELF program headers, must be 1-" +
                            std::to_string(kProgramHeadersMax));
    return header;
}

// Where one PT_LOAD goes, checked against the file and the memory.
struct Segment {
    uint64_t start = 0;
    uint64_t end = 0;
};

Result<Segment> load_segment(const GuestMemory& memory, const BootFile& file,
                             const Elf64_Phdr& header, std::span<const Segment> others) {
    if (header.p_filesz > header.p_memsz)
        return file.corrupt("ELF segment of " + hex(header.p_filesz) + " bytes in the file, " +
                            hex(header.p_memsz) + " in memory");
    Segment segment{header.p_paddr, 0};
    if (__builtin_add_overflow(header.p_paddr, header.p_memsz, &segment.end))
        return file.corrupt("ELF segment at " + hex(header.p_paddr) + " of " + hex(header.p_memsz) +
                            " bytes: beyond 2^64");
    TRY(check_kernel_range(memory, file, segment.start, segment.end, "an ELF segment"));
    for (const Segment& other : others) {
        if (segment.start < other.end && other.start < segment.end)
            return file.corrupt("ELF segments overlap: " + hex(segment.start) + "-" +
                                hex(segment.end) + " and " + hex(other.start) + "-" +
                                hex(other.end));
    }
    TRY(file.load(memory, GuestAddress(segment.start), header.p_offset, header.p_filesz,
                  "an ELF segment"));
    return segment;
}

// The address in the Xen note PHYS32_ENTRY, if it is among the notes of this segment.
Result<std::optional<uint64_t>> find_entry(const BootFile& file, const Elf64_Phdr& header) {
    if (header.p_filesz > kNoteBytesMax)
        return file.corrupt("ELF notes of " + hex(header.p_filesz) + " bytes, at most " +
                            hex(kNoteBytesMax));
    std::vector<std::byte> notes(header.p_filesz);
    TRY(file.read(header.p_offset, notes, "the ELF notes"));
    // Name and description are each padded to 4 bytes; sizes are 32 bits, so sums in 64 are safe.
    auto padded = [](uint64_t size) { return (size + 3) & ~uint64_t{3}; };
    uint64_t offset = 0;
    while (notes.size() - offset >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr note;
        std::memcpy(&note, notes.data() + offset, sizeof(note));
        uint64_t name = offset + sizeof(note);
        uint64_t description = name + padded(note.n_namesz);
        uint64_t next = description + padded(note.n_descsz);
        if (description + note.n_descsz > notes.size())
            return file.corrupt("ELF note at " + hex(offset) + " ends at " + hex(next) +
                                ", the notes at " + hex(notes.size()));
        if (note.n_type == pvh::kNotePhys32Entry && note.n_namesz == sizeof(pvh::kNoteName) &&
            std::memcmp(notes.data() + name, pvh::kNoteName, sizeof(pvh::kNoteName)) == 0) {
            if (note.n_descsz != 4 && note.n_descsz != 8)
                return file.corrupt("PVH entry note of " + std::to_string(note.n_descsz) +
                                    " bytes, must be 4 or 8");
            uint64_t entry = 0;
            std::memcpy(&entry, notes.data() + description, note.n_descsz);
            return std::optional(entry);
        }
        if (next >= notes.size())
            break;
        offset = next;
    }
    return std::optional<uint64_t>();
}

}  // namespace

Result<LoadedKernel> load_elf(const GuestMemory& memory, const BootFile& file) {
    auto header = TRY(read_header(file));
    std::vector<Elf64_Phdr> program_headers(header.e_phnum);
    TRY(file.read(header.e_phoff, std::as_writable_bytes(std::span(program_headers)),
                  "the ELF program header table"));
    std::vector<Segment> segments;
    std::optional<uint64_t> entry;
    for (const Elf64_Phdr& program_header : program_headers) {
        if (program_header.p_type == PT_NOTE && !entry)
            entry = TRY(find_entry(file, program_header));
        if (program_header.p_type == PT_LOAD && program_header.p_memsz > 0)
            segments.push_back(TRY(load_segment(memory, file, program_header, segments)));
    }
    if (!entry)
        return fail(Code::invalid_argument,
                    file.name() + ": ELF kernel without a PVH entry note (CONFIG_PVH)");
    LoadedKernel kernel;
    kernel.entry = *entry;
    bool entry_loaded = false;
    for (const Segment& segment : segments) {
        kernel.end = std::max(kernel.end, segment.end);
        entry_loaded |= segment.start <= *entry && *entry < segment.end;
    }
    if (!entry_loaded)
        return file.corrupt("PVH entry " + hex(*entry) + " is in none of the " +
                            std::to_string(segments.size()) + " segments");
    kernel.protocol = BootProtocol::pvh;
    kernel.initrd_end_max = layout::kHoleStart;
    kernel.command_line_max = limits::kCommandLineBytesMax - 1;
    return kernel;
}

Status write_start_info(const GuestMemory& memory, const LoadedInitrd& initrd) {
    constexpr uint64_t kModules = layout::kStartInfo + sizeof(pvh::StartInfo);
    constexpr uint64_t kMemoryMap = kModules + sizeof(pvh::Module);
    auto map = memory_map(memory.size());
    pvh::StartInfo info;
    info.command_line = layout::kCommandLine;
    info.rsdp = layout::kRsdp;
    info.memory_map = kMemoryMap;
    info.memory_map_entries = static_cast<uint32_t>(map.size());
    if (initrd.size > 0) {
        info.modules = kModules;
        info.module_count = 1;
        TRY(memory.write(GuestAddress(kModules), pvh::Module{initrd.start, initrd.size}));
    }
    uint64_t address = kMemoryMap;
    for (const MemoryMapEntry& entry : map) {
        pvh::MemoryMapEntry written{entry.start, entry.size, static_cast<uint32_t>(entry.type)};
        TRY(memory.write(GuestAddress(address), written));
        address += sizeof(written);
    }
    static_assert(kMemoryMap + 16 * sizeof(pvh::MemoryMapEntry) <=
                  layout::kStartInfo + layout::kStartInfoBytes);
    return memory.write(GuestAddress(layout::kStartInfo), info);
}

}  // namespace spore
