#include "tests/bad_input/support/tiny_kernel.h"

#include <elf.h>

#include <cstdint>
#include <cstring>

namespace spore::test {

namespace {

constexpr uint64_t kLoadAddress = 0x10'0000;
constexpr size_t kNotesAt = 0x200;
constexpr size_t kCodeAt = 0x1000;
constexpr uint32_t kPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

constexpr uint8_t kCode[] = {
    0x66, 0xba, 0xf8, 0x03,              // mov dx, 0x3f8
    0xb0, 'R',                           // mov al, 'R'
    0xee,                                // out dx, al
    0xb0, '\n',                          // mov al, '\n'
    0xee,                                // out dx, al
    0xff, 0x05, 0x00, 0x20, 0x10, 0x00,  // inc dword [0x102000]: a page that is not all zero
    0xf4,                                // hlt
    0xeb, 0xfd,                          // jmp to it
};

template <typename T>
void put(std::string& bytes, size_t offset, const T& value) {
    std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

std::string image(bool with_note) {
    std::string bytes(kCodeAt + sizeof(kCode), '\0');
    std::memcpy(bytes.data() + kCodeAt, kCode, sizeof(kCode));
    Elf64_Ehdr header = {};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof(header);
    header.e_ehsize = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = with_note ? 2 : 1;
    put(bytes, 0, header);
    Elf64_Phdr code = {PT_LOAD,      PF_R | PF_W | PF_X, kCodeAt, kLoadAddress,
                       kLoadAddress, sizeof(kCode),      0x3000,  0x1000};
    put(bytes, sizeof(header), code);
    if (!with_note)
        return bytes;
    constexpr size_t kNoteBytes = sizeof(Elf64_Nhdr) + 4 + 8;
    Elf64_Phdr notes = {PT_NOTE, PF_R, kNotesAt, 0, 0, kNoteBytes, kNoteBytes, 4};
    put(bytes, sizeof(header) + sizeof(code), notes);
    put(bytes, kNotesAt, Elf64_Nhdr{4, 8, kPhys32Entry});
    std::memcpy(bytes.data() + kNotesAt + sizeof(Elf64_Nhdr), "Xen", 4);
    put(bytes, kNotesAt + sizeof(Elf64_Nhdr) + 4, kLoadAddress);
    return bytes;
}

}  // namespace

std::string tiny_kernel() {
    return image(true);
}

std::string tiny_kernel_without_note() {
    return image(false);
}

}  // namespace spore::test
