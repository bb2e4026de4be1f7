#include "hypervisor/boot/kernel.h"

#include <gtest/gtest.h>

#include <fcntl.h>

#include "hypervisor/boot/layout.h"
#include "hypervisor/boot/pvh.h"
#include "tests/unit/support/kernel_images.h"

namespace spore {
namespace {

using limits::kMiB;
using test::BzImage;
using test::ElfImage;
using test::file_of;

class KernelTest : public testing::Test {
  protected:
    static GuestMemory make_memory(uint64_t bytes) {
        return *GuestMemory::allocate(memory_extents(bytes));
    }
    Result<BootState> load(std::string_view image, std::string_view command_line = "console=ttyS0",
                           std::string_view initrd = {}) {
        UniqueFd kernel = file_of(image);
        UniqueFd ramdisk = file_of(initrd);
        KernelSource source;
        source.kernel = kernel.get();
        source.kernel_name = "vmlinux";
        if (!initrd.empty()) {
            source.initrd = ramdisk.get();
            source.initrd_name = "initrd";
        }
        source.command_line = command_line;
        return load_kernel(memory, source);
    }
    void expect_refused(std::string_view image, Code code, std::string_view part,
                        std::string_view command_line = "", std::string_view initrd = {}) {
        auto state = load(image, command_line, initrd);
        ASSERT_FALSE(state.has_value()) << part;
        EXPECT_EQ(state.error().code, code) << state.error().message;
        EXPECT_NE(state.error().message.find(part), std::string::npos) << state.error().message;
        EXPECT_EQ(state.error().message.find('\n'), std::string::npos);
    }
    template <typename T>
    T at(uint64_t address) {
        return *memory.read<T>(GuestAddress(address));
    }
    std::string text_at(uint64_t address, size_t size) {
        std::string text(size, '\0');
        EXPECT_TRUE(
            memory.read_bytes(GuestAddress(address), std::as_writable_bytes(std::span(text)))
                .has_value());
        return text;
    }

    GuestMemory memory = make_memory(64 * kMiB);
};

TEST_F(KernelTest, LoadsAnElfKernelByItsPvhEntry) {
    auto state = load(ElfImage().bytes());
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(state->protocol, BootProtocol::pvh);
    EXPECT_EQ(state->entry.value(), ElfImage::kEntry);
    EXPECT_EQ(state->kernel_end, ElfImage::kData + 0x4000);
    EXPECT_EQ(text_at(ElfImage::kText, 0x2000), std::string(0x2000, 't'));
    EXPECT_EQ(text_at(ElfImage::kData, 0x1001), std::string(0x1000, 'd') + '\0');

    auto info = at<pvh::StartInfo>(state->info.value());
    EXPECT_EQ(info.magic, 0x336ec578u);
    EXPECT_EQ(info.version, 1u);
    EXPECT_EQ(info.module_count, 0u);
    EXPECT_EQ(info.rsdp, layout::kRsdp);
    EXPECT_EQ(text_at(info.command_line, 14), std::string("console=ttyS0\0", 14));
    auto map = memory_map(memory.size());
    ASSERT_EQ(info.memory_map_entries, map.size());
    for (size_t index = 0; index < map.size(); index++) {
        auto entry = at<pvh::MemoryMapEntry>(info.memory_map + index * 24);
        EXPECT_EQ(entry.start, map[index].start);
        EXPECT_EQ(entry.size, map[index].size);
        EXPECT_EQ(entry.type, static_cast<uint32_t>(map[index].type));
    }
}

TEST_F(KernelTest, PutsTheInitrdHighAndTellsAPvhKernel) {
    std::string initrd(5000, 'i');
    auto state = load(ElfImage().bytes(), "", initrd);
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(state->initrd_start.value(), 64 * kMiB - 8192);
    EXPECT_EQ(text_at(state->initrd_start.value(), initrd.size()), initrd);
    auto info = at<pvh::StartInfo>(state->info.value());
    ASSERT_EQ(info.module_count, 1u);
    auto module = at<pvh::Module>(info.modules);
    EXPECT_EQ(module.start, state->initrd_start.value());
    EXPECT_EQ(module.size, initrd.size());
}

TEST_F(KernelTest, PutsTheInitrdBelowTheHoleOfALargeMachine) {
    memory = make_memory(5 * limits::kGiB);
    auto state = load(ElfImage().bytes(), "", "initrd");
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(state->initrd_start.value(), layout::kHoleStart - 4096);
    state = load(BzImage().bytes(), "", "initrd");
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(state->initrd_start.value(), 0x7fff'f000u) << "initrd_addr_max";
}

TEST_F(KernelTest, ReadsAnEntryNoteOfFourBytes) {
    ElfImage image;
    image.note.n_descsz = 4;
    image.notes.p_filesz -= 4;
    auto state = load(image.bytes());
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(state->entry.value(), ElfImage::kEntry);
}

TEST_F(KernelTest, RefusesAnElfFileCutAnywhere) {
    std::string image = ElfImage().bytes();
    for (size_t size = 0; size < image.size(); size += size < 0x900 ? 1 : 61) {
        auto state = load(image.substr(0, size));
        ASSERT_FALSE(state.has_value()) << size;
        Code expected = size > 0 && size < SELFMAG ? Code::invalid_argument : Code::corrupt;
        EXPECT_EQ(state.error().code, expected) << size << ": " << state.error().message;
    }
}

TEST_F(KernelTest, RefusesHostileElfFields) {
    auto refused = [&](auto change, Code code, std::string_view part) {
        ElfImage image;
        change(image);
        expect_refused(image.bytes(), code, part);
    };
    constexpr auto kBad = Code::corrupt;
    constexpr auto kWrong = Code::invalid_argument;
    constexpr uint64_t kHuge = ~uint64_t{0};
    refused([](ElfImage& e) { e.header.e_ident[EI_CLASS] = ELFCLASS32; }, kWrong, "class 1");
    refused([](ElfImage& e) { e.header.e_machine = EM_AARCH64; }, kWrong, "machine 183");
    refused([](ElfImage& e) { e.header.e_type = ET_REL; }, kWrong, "type 1");
    refused([](ElfImage& e) { e.header.e_phentsize = 55; }, kBad, "55");
    refused([](ElfImage& e) { e.header.e_phnum = 0; }, kBad, "0 ELF program headers");
    refused([](ElfImage& e) { e.header.e_phnum = 65535; }, kBad, "1-64");
    refused([](ElfImage& e) { e.header.e_phoff = 0x3fff; }, kBad, "truncated");
    refused([=](ElfImage& e) { e.header.e_phoff = kHuge - 10; }, kBad, "truncated");
    refused([](ElfImage& e) { e.text.p_filesz = 0x2001; }, kBad, "0x2001");
    refused([](ElfImage& e) { e.text.p_offset = 0x2001; }, kBad, "truncated");
    refused([=](ElfImage& e) { e.text.p_offset = kHuge; }, kBad, "truncated");
    refused([=](ElfImage& e) { e.data.p_memsz = kHuge; }, kBad, "beyond 2^64");
    refused([=](ElfImage& e) { e.data.p_paddr = kHuge - 0x3fff; }, kBad, "beyond 2^64");
    refused([=](ElfImage& e) { e.data.p_paddr = kHuge - 0x4fff; }, kWrong, "0x100000-0x4000000");
    refused([](ElfImage& e) { e.data.p_paddr = 0x7000; }, kWrong, "0x7000");
    refused([](ElfImage& e) { e.data.p_memsz = 64 * kMiB; }, kWrong, "0x5200000");
    refused([](ElfImage& e) { e.data.p_paddr = ElfImage::kText + 0x1fff; }, kBad, "overlap");
    refused([](ElfImage& e) { e.entry = ElfImage::kText - 1; }, kBad, "PVH entry");
    refused([=](ElfImage& e) { e.entry = kHuge; }, kBad, "PVH entry");
    refused([](ElfImage& e) { e.note.n_type = 17; }, kWrong, "CONFIG_PVH");
    refused([](ElfImage& e) { e.notes.p_type = PT_NULL; }, kWrong, "CONFIG_PVH");
    refused([](ElfImage& e) { e.note.n_namesz = ~0u; }, kBad, "ELF note");
    refused([](ElfImage& e) { e.note.n_descsz = ~0u; }, kBad, "ELF note");
    refused(
        [](ElfImage& e) {
            e.note.n_descsz = 9;
            e.notes.p_filesz += 4;
        },
        kBad, "9 bytes");
    refused([](ElfImage& e) { e.notes.p_filesz = 1 << 20; }, kBad, "at most 0x10000");
    refused([](ElfImage& e) { e.notes.p_offset = 0x3fff; }, kBad, "truncated");
}

TEST_F(KernelTest, LoadsABzImageByIts64BitEntry) {
    std::string initrd(100, 'i');
    auto state = load(BzImage().bytes(), "quiet", initrd);
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(state->protocol, BootProtocol::linux64);
    EXPECT_EQ(state->entry.value(), BzImage::kLoad + 0x200);
    EXPECT_EQ(state->kernel_end, BzImage::kLoad + 0x40'0000);
    EXPECT_EQ(text_at(BzImage::kLoad, 0x10001), std::string(0x10000, 'k') + '\0');

    auto params = at<boot_params>(state->info.value());
    EXPECT_EQ(+params.hdr.header, 0x53726448u);
    EXPECT_EQ(+params.hdr.type_of_loader, 0xFF);
    EXPECT_EQ(+params.hdr.setup_data, 0u) << "the file's own must not get through";
    EXPECT_EQ(+params.hdr.ramdisk_image, 64 * kMiB - 4096);
    EXPECT_EQ(+params.hdr.ramdisk_size, 100u);
    EXPECT_EQ(+params.acpi_rsdp_addr, layout::kRsdp);
    EXPECT_EQ(text_at(params.hdr.cmd_line_ptr, 6), std::string("quiet\0", 6));
    auto map = memory_map(memory.size());
    ASSERT_EQ(params.e820_entries, map.size());
    for (size_t index = 0; index < map.size(); index++) {
        // Unary plus: members of packed structures do not bind to references.
        EXPECT_EQ(+params.e820_table[index].addr, map[index].start);
        EXPECT_EQ(+params.e820_table[index].size, map[index].size);
        EXPECT_EQ(+params.e820_table[index].type, static_cast<uint32_t>(map[index].type));
    }
}

TEST_F(KernelTest, MapsTheFirst4GibOntoThemselvesForABzImage) {
    ASSERT_TRUE(load(BzImage().bytes()).has_value());
    for (uint64_t address :
         {uint64_t{0}, uint64_t{0x7000}, BzImage::kLoad, uint64_t{0xFFFF'FFFF}}) {
        uint64_t entry = layout::kPageTables | 3;
        for (unsigned shift : {39u, 30u, 21u}) {
            ASSERT_EQ(entry & 0x83, 3u) << "present, writable, a table";
            entry = at<uint64_t>((entry & ~uint64_t{0xFFF}) + 8 * (address >> shift & 511));
        }
        EXPECT_EQ(entry, (address & ~uint64_t{0x1F'FFFF}) | 0x83);
    }
}

TEST_F(KernelTest, RefusesABzImageCutAnywhere) {
    std::string image = BzImage().bytes();
    for (size_t size = 0; size < image.size(); size += size < 0xA10 ? 1 : 997) {
        auto state = load(image.substr(0, size));
        ASSERT_FALSE(state.has_value()) << size;
        // Cut before its magic number it is just not a kernel.
        Code expected = size > 0 && size < 0x206 ? Code::invalid_argument : Code::corrupt;
        EXPECT_EQ(state.error().code, expected) << size << ": " << state.error().message;
    }
}

TEST_F(KernelTest, RefusesHostileBzImageFields) {
    auto refused = [&](auto change, Code code, std::string_view part) {
        BzImage image;
        change(image);
        expect_refused(image.bytes(), code, part);
    };
    constexpr auto kBad = Code::corrupt;
    constexpr auto kWrong = Code::invalid_argument;
    refused([](BzImage& b) { b.header.boot_flag = 0; }, kBad, "boot flag");
    refused([](BzImage& b) { b.jump = 0; }, kBad, "setup header of");
    refused([](BzImage& b) { b.header.version = 0x020b; }, kWrong, "2.11, at least 2.12");
    refused([](BzImage& b) { b.header.loadflags = 0; }, kWrong, "64-bit entry");
    refused([](BzImage& b) { b.header.xloadflags = 0; }, kWrong, "64-bit entry");
    refused([](BzImage& b) { b.header.setup_sects = 255; }, kBad, "truncated");
    refused([](BzImage& b) { b.header.syssize = 0x1001; }, kBad, "truncated");
    refused([](BzImage& b) { b.header.syssize = 0x20; }, kBad, "512 bytes");
    refused([](BzImage& b) { b.header.syssize = ~0u; }, kWrong, "the kernel takes");
    refused([](BzImage& b) { b.header.pref_address = ~uint64_t{0} & ~uint64_t{0xFFF}; }, kBad,
            "beyond 2^64");
    refused([](BzImage& b) { b.header.pref_address = 0x100'0001; }, kBad, "not a multiple");
    refused([](BzImage& b) { b.header.pref_address = 0x7000; }, kWrong, "0x7000");
    refused([](BzImage& b) { b.header.init_size = 64 * kMiB; }, kWrong, "0x5000000");
}

TEST_F(KernelTest, AssumesFourSetupSectorsWhereTheHeaderHasNone) {
    BzImage image;
    image.header.setup_sects = 0;
    auto state = load(image.bytes());
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(text_at(BzImage::kLoad, 4), "kkkk");
}

TEST_F(KernelTest, RefusesWhatIsNoKernel) {
    expect_refused("", Code::corrupt, "vmlinux: empty");
    expect_refused("#!", Code::invalid_argument, "not a kernel");
    expect_refused(std::string(4096, 'x'), Code::invalid_argument, "not a kernel");
    KernelSource source;
    UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    source.kernel = directory.get();
    source.kernel_name = "/";
    auto state = load_kernel(memory, source);
    ASSERT_FALSE(state.has_value());
    EXPECT_EQ(state.error().message, "/: not a regular file");
    EXPECT_EQ(state.error().code, Code::invalid_argument);
}

TEST_F(KernelTest, RefusesAnInitrdThatDoesNotFit) {
    std::string large(50 * kMiB, 'i');
    expect_refused(ElfImage().bytes(), Code::invalid_argument, "52428800", "", large);
    BzImage image;
    image.header.initrd_addr_max = BzImage::kLoad;
    expect_refused(image.bytes(), Code::invalid_argument, "does not fit", "", "tiny");
    image.header.initrd_addr_max = 0;
    expect_refused(image.bytes(), Code::invalid_argument, "does not fit", "", "tiny");
}

TEST_F(KernelTest, LimitsTheCommandLine) {
    EXPECT_TRUE(load(ElfImage().bytes(), std::string(2047, 'a')).has_value());
    EXPECT_EQ(text_at(layout::kCommandLine, 2048), std::string(2047, 'a') + '\0');
    expect_refused(ElfImage().bytes(), Code::invalid_argument, "2048 bytes",
                   std::string(2048, 'a'));
    BzImage image;
    image.header.cmdline_size = 10;
    expect_refused(image.bytes(), Code::invalid_argument, "at most 10", std::string(11, 'a'));
    image.header.cmdline_size = ~0u;
    expect_refused(image.bytes(), Code::invalid_argument, "2047", std::string(2048, 'a'));
    expect_refused(image.bytes(), Code::invalid_argument, "zero byte", std::string_view("a\0b", 3));
}

TEST_F(KernelTest, StartsPvhIn32BitProtectedMode) {
    auto state = load(ElfImage().bytes());
    ASSERT_TRUE(state.has_value());
    kvm_regs regs;
    kvm_sregs sregs = {};
    sregs.apic_base = 0xFEE0'0900;
    start_state(*state, regs, sregs);
    EXPECT_EQ(regs.rip, ElfImage::kEntry);
    EXPECT_EQ(regs.rbx, layout::kStartInfo);
    EXPECT_EQ(regs.rflags, 2u);
    EXPECT_EQ(sregs.cr0 & 0x8000'0001, 1u);
    EXPECT_EQ(sregs.cr4, 0u);
    EXPECT_EQ(sregs.efer, 0u);
    EXPECT_EQ(sregs.cs.db, 1);
    EXPECT_EQ(sregs.cs.limit, 0xFFFF'FFFFu);
    EXPECT_EQ(sregs.tr.limit, 0x67u);
    EXPECT_EQ(sregs.apic_base, 0xFEE0'0900u) << "not the protocol's to change";
}

TEST_F(KernelTest, StartsABzImageInLongModeWithItsSelectors) {
    auto state = load(BzImage().bytes());
    ASSERT_TRUE(state.has_value());
    kvm_regs regs;
    kvm_sregs sregs = {};
    start_state(*state, regs, sregs);
    EXPECT_EQ(regs.rip, BzImage::kLoad + 0x200);
    EXPECT_EQ(regs.rsi, layout::kZeroPage);
    EXPECT_EQ(sregs.cr3, layout::kPageTables);
    EXPECT_EQ(sregs.cr0 & 0x8000'0001, 0x8000'0001u);
    EXPECT_EQ(sregs.cr4, 0x20u);
    EXPECT_EQ(sregs.efer, 0x500u);
    EXPECT_EQ(sregs.cs.selector, 0x10);
    EXPECT_EQ(sregs.cs.l, 1);
    EXPECT_EQ(sregs.cs.db, 0);
    EXPECT_EQ(sregs.ds.selector, 0x18);
    // What is in the segment registers stands in the table behind them as well.
    EXPECT_EQ(at<uint64_t>(sregs.gdt.base + 0x10), 0x00AF'9B00'0000'FFFFu);
    EXPECT_EQ(at<uint64_t>(sregs.gdt.base + 0x18), 0x00CF'9300'0000'FFFFu);
    EXPECT_EQ(sregs.gdt.limit, 31);
}

}  // namespace
}  // namespace spore
