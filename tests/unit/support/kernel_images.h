#pragma once

// Small made-up kernels, ELF and bzImage, to be right or wrong field by field.

#include <asm/bootparam.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/unique_fd.h"

namespace spore::test {

// An unnamed file holding `bytes`.
inline UniqueFd file_of(std::string_view bytes) {
    UniqueFd fd(::memfd_create("kernel", MFD_CLOEXEC));
    if (::pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
        fd.reset();
    return fd;
}

template <typename T>
void put(std::string& bytes, size_t offset, const T& value) {
    if (bytes.size() < offset + sizeof(T))
        bytes.resize(offset + sizeof(T));
    std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

// ELF64 with two segments (16 MiB on; the second has 0x3000 bytes of zeroes behind it) and notes.
struct ElfImage {
    static constexpr uint64_t kText = 0x100'0000;
    static constexpr uint64_t kData = 0x120'0000;
    static constexpr uint64_t kEntry = kText + 0x40;

    Elf64_Ehdr header = {};
    Elf64_Phdr text = {};
    Elf64_Phdr data = {};
    Elf64_Phdr notes = {};
    Elf64_Nhdr note = {};
    uint64_t entry = kEntry;

    ElfImage() {
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_type = ET_EXEC;
        header.e_machine = EM_X86_64;
        header.e_phoff = sizeof(header);
        header.e_phentsize = sizeof(Elf64_Phdr);
        header.e_phnum = 3;
        text = {PT_LOAD, PF_R | PF_X, 0x1000, 0, kText, 0x2000, 0x2000, 0x1000};
        data = {PT_LOAD, PF_R | PF_W, 0x3000, 0, kData, 0x1000, 0x4000, 0x1000};
        // A foreign note first, then the entry.
        notes = {PT_NOTE, PF_R, 0x800, 0, 0, 20 + 24, 20 + 24, 4};
        note = {4, 8, 18};
    }
    std::string bytes() const {
        std::string image(0x4000, '\0');
        std::memset(image.data() + 0x1000, 't', 0x2000);
        std::memset(image.data() + 0x3000, 'd', 0x1000);
        put(image, 0, header);
        put(image, sizeof(header), text);
        put(image, sizeof(header) + sizeof(text), data);
        put(image, sizeof(header) + 2 * sizeof(text), notes);
        put(image, 0x800, Elf64_Nhdr{4, 3, 18});  // same type, another name: GNU
        std::memcpy(image.data() + 0x80c, "GNU\0abc", 7);
        put(image, 0x814, note);
        std::memcpy(image.data() + 0x820, "Xen", 4);
        put(image, 0x824, entry);
        return image;
    }
};

// A bzImage of four set-up sectors and 64 KiB behind them.
struct BzImage {
    static constexpr uint64_t kLoad = 0x100'0000;

    setup_header header = {};
    uint8_t jump = 0x6a;
    size_t payload_bytes = 0x10000;

    BzImage() {
        header.setup_sects = 4;
        header.boot_flag = 0xAA55;
        std::memcpy(&header.header, "HdrS", 4);
        header.version = 0x020f;
        header.syssize = 0x1000;
        header.loadflags = LOADED_HIGH;
        header.xloadflags = XLF_KERNEL_64;
        header.initrd_addr_max = 0x7fff'ffff;
        header.kernel_alignment = 0x20'0000;
        header.relocatable_kernel = 1;
        header.cmdline_size = 2047;
        header.pref_address = kLoad;
        header.init_size = 0x40'0000;
        header.setup_data = 0x1234'5678;
    }
    std::string bytes() const {
        std::string image(5 * 512, 's');
        image += std::string(payload_bytes, 'k');
        put(image, 0x1f1, header);
        image[0x201] = static_cast<char>(jump);
        return image;
    }
};

}  // namespace spore::test
