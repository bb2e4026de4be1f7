#include <sys/eventfd.h>

#include "tests/kvm/support/test_guest.h"

namespace spore {
namespace {

class VcpuExit : public testing::Test {
  protected:
    void SetUp() override { NEEDS_KVM(); }
};

uint64_t little_endian(std::span<const std::byte> bytes) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
    return value;
}

void expect_io(kvm_run& run, uint8_t direction, uint16_t port, uint8_t size, uint64_t value) {
    ASSERT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
    EXPECT_EQ(run.io.direction, direction);
    EXPECT_EQ(run.io.port, port);
    EXPECT_EQ(run.io.size, size);
    if (direction == KVM_EXIT_IO_OUT)
        EXPECT_EQ(little_endian(TestGuest::io_bytes(run)), value);
    else
        std::memcpy(TestGuest::io_bytes(run).data(), &value, size);
}

TEST_F(VcpuExit, TellsEachWidthOfPortAccess) {
    TestGuest guest;
    guest.start(port_io_guest());
    expect_io(guest.run(), KVM_EXIT_IO_OUT, 0x10, 1, 0x11);
    expect_io(guest.run(), KVM_EXIT_IO_OUT, 0x1234, 2, 0x2222);
    expect_io(guest.run(), KVM_EXIT_IO_OUT, 0x1234, 4, 0x33333333);
    expect_io(guest.run(), KVM_EXIT_IO_IN, 0x10, 1, 0x77);
    expect_io(guest.run(), KVM_EXIT_IO_IN, 0x1234, 2, 0x8888);
    expect_io(guest.run(), KVM_EXIT_IO_IN, 0x1234, 4, 0x99999999);
    ASSERT_EQ(guest.run().io.port, kDonePort);
    EXPECT_EQ(must(guest.memory.read<uint32_t>(GuestAddress(0x8000))), 0x77u);
    EXPECT_EQ(must(guest.memory.read<uint32_t>(GuestAddress(0x8004))), 0x8888u);
    EXPECT_EQ(must(guest.memory.read<uint32_t>(GuestAddress(0x8008))), 0x99999999u);
}

TEST_F(VcpuExit, HandsOverAStringOfBytes) {
    TestGuest guest;
    must(guest.memory.write_bytes(kGuestData, std::as_bytes(std::span("abc", 3))));
    guest.start(string_output_guest());
    std::string text;
    for (;;) {
        kvm_run& run = guest.run();
        ASSERT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
        if (run.io.port == kDonePort)
            break;
        for (std::byte byte : TestGuest::io_bytes(run))
            text += static_cast<char>(byte);
    }
    EXPECT_EQ(text, "abc");
}

void expect_mmio(kvm_run& run, bool is_write, uint64_t offset, uint32_t size, uint64_t value) {
    ASSERT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_MMIO));
    EXPECT_EQ(run.mmio.is_write, is_write);
    EXPECT_EQ(run.mmio.phys_addr, kMmio + offset);
    EXPECT_EQ(run.mmio.len, size);
    auto bytes = std::as_writable_bytes(std::span(run.mmio.data, size));
    if (is_write)
        EXPECT_EQ(little_endian(bytes), value);
    else
        std::memcpy(bytes.data(), &value, size);
}

TEST_F(VcpuExit, TellsEachWidthOfMmio) {
    TestGuest guest;
    guest.start(mmio_guest());
    expect_mmio(guest.run(), true, 0, 1, 0x11);
    expect_mmio(guest.run(), true, 2, 2, 0x2222);
    expect_mmio(guest.run(), true, 4, 4, 0x33333333);
    expect_mmio(guest.run(), true, 8, 8, 0x4444444455555555);
    expect_mmio(guest.run(), false, 0x10, 1, 0x66);
    expect_mmio(guest.run(), false, 0x12, 2, 0x7777);
    expect_mmio(guest.run(), false, 0x14, 4, 0x88888888);
    expect_mmio(guest.run(), false, 0x18, 8, 0x9999999911111111);
    ASSERT_EQ(guest.run().io.port, kDonePort);
    EXPECT_EQ(must(guest.memory.read<uint64_t>(GuestAddress(0x8000))), 0x66u);
    EXPECT_EQ(must(guest.memory.read<uint64_t>(GuestAddress(0x8008))), 0x7777u);
    EXPECT_EQ(must(guest.memory.read<uint64_t>(GuestAddress(0x8010))), 0x88888888u);
    EXPECT_EQ(must(guest.memory.read<uint64_t>(GuestAddress(0x8018))), 0x9999999911111111u);
}

TEST_F(VcpuExit, ReachesMemoryAbove4GiB) {
    TestGuest guest;
    must(guest.memory.write<uint64_t>(GuestAddress(0x1'0000'1000), 0x0123456789abcdef));
    guest.start(high_memory_guest());
    ASSERT_EQ(guest.run().exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
    EXPECT_EQ(must(guest.memory.read<uint64_t>(GuestAddress(0x1'3fff'fff8))), 0x0123456789abcdefu);
}

TEST_F(VcpuExit, NotesThePagesThatTheGuestWrites) {
    TestGuest guest;
    auto dirty = [&](uint32_t slot) {
        std::vector<size_t> pages;
        auto bitmap = must(guest.vm.take_dirty_pages(guest.memory, slot));
        for (size_t page = 0; page < bitmap.size() * 64; page++) {
            if ((bitmap[page / 64] >> page % 64 & 1) != 0)
                pages.push_back(page);
        }
        return pages;
    };
    EXPECT_FALSE(guest.vm.take_dirty_pages(guest.memory, 1)) << "nothing is logged yet";
    must(guest.vm.log_dirty_pages(guest.memory, true));
    EXPECT_EQ(dirty(1), std::vector<size_t>());
    guest.start(high_memory_guest());
    guest.run();
    EXPECT_EQ(dirty(1), std::vector<size_t>({limits::kGiB / 4096 - 1}));
    EXPECT_EQ(dirty(1), std::vector<size_t>()) << "what is taken is taken";
    must(guest.vm.log_dirty_pages(guest.memory, false));
    EXPECT_FALSE(guest.vm.take_dirty_pages(guest.memory, 1));
}

TEST_F(VcpuExit, DeliversAnMsiToTheLapic) {
    TestGuest guest;
    guest.start(msi_guest());
    ASSERT_EQ(guest.run().io.port, 0x10);
    auto before = must(guest.vcpu().lapic());
    EXPECT_EQ(before.regs[0x220] & 2, 0) << "vector 0x41 is pending before it was sent";
    must(guest.vm.signal_msi(0xfee00000, 0x41));  // to APIC 0, fixed, edge
    kvm_run& run = guest.run();                   // the guest polls until it sees it
    ASSERT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
    EXPECT_EQ(run.io.port, kDonePort);
    EXPECT_EQ(must(guest.vcpu().lapic()).regs[0x220] & 2, 2);
}

TEST_F(VcpuExit, AcceptsAnMsiForAnApicThatIsNotThere) {
    TestGuest guest;
    EXPECT_TRUE(guest.vm.signal_msi(0xfee00000 | 77 << 12, 0x41)) << "that is the guest's business";
}

uint64_t rings(int eventfd) {
    uint64_t count = 0;
    return ::read(eventfd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

TEST_F(VcpuExit, RingsADoorbellInsteadOfExiting) {
    TestGuest guest;
    UniqueFd bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    must(guest.vm.add_doorbell(GuestAddress(kMmio), bell.get()));
    guest.start(doorbell_guest());
    expect_mmio(guest.run(), true, 16, 4, 8);  // the neighbour exits
    EXPECT_EQ(rings(bell.get()), 2u) << "once by 2 bytes, once by 4";
    ASSERT_EQ(guest.run().io.port, kDonePort);

    must(guest.vm.remove_doorbell(GuestAddress(kMmio), bell.get()));
    must(guest.vcpu().complete_access());
    guest.start(doorbell_guest());
    expect_mmio(guest.run(), true, 0, 2, 7);
    EXPECT_EQ(rings(bell.get()), 0u);
}

TEST_F(VcpuExit, CompletesAnInputWithoutRunningOn) {
    TestGuest guest;
    guest.start(port_io_guest());
    kvm_run* run = &guest.run();
    while (run->io.direction == KVM_EXIT_IO_OUT)
        run = &guest.run();
    TestGuest::io_bytes(*run)[0] = std::byte{0x5a};
    uint64_t before = must(guest.vcpu().regs()).rip;
    EXPECT_TRUE(must(guest.vcpu().complete_access()));
    auto regs = must(guest.vcpu().regs());
    EXPECT_EQ(regs.rax & 0xff, 0x5au);
    EXPECT_GE(regs.rip, before);
    EXPECT_LE(regs.rip - before, 2u) << "the input is two bytes long";
}

TEST_F(VcpuExit, TellsTheXsaveSizeOfTheGuestsXcr0) {
    TestGuest guest;
    auto cpuid = must(make_cpuid(must(guest.kvm.supported_cpuid()), "host", 0, 1));
    uint64_t offered = cpuid_xcr0(cpuid);
    if (offered == 1)
        GTEST_SKIP() << "this host's KVM offers no XSAVE";
    must(guest.memory.write<uint64_t>(kGuestData, offered));
    guest.start(xsave_size_guest());
    auto sregs = must(guest.vcpu().sregs());
    sregs.cr4 |= 1 << 18;  // OSXSAVE
    must(guest.vcpu().set_sregs(sregs));
    ASSERT_EQ(guest.run().exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
    uint32_t size = 0;
    for (const kvm_cpuid_entry2& entry : cpuid) {
        if (entry.function == 0xd && entry.index == 0)
            size = entry.ecx;
    }
    EXPECT_EQ(must(guest.memory.read<uint32_t>(GuestAddress(0x8010))), offered);
    EXPECT_EQ(must(guest.memory.read<uint32_t>(GuestAddress(0x8008))), size)
        << "XCR0 was " << must(guest.memory.read<uint32_t>(GuestAddress(0x8018)));
    kvm_xcrs xcrs = must(guest.vcpu().save({})).xcrs;
    EXPECT_EQ(xcrs.xcrs[0].value, offered);
}

TEST_F(VcpuExit, MakesSixteenVcpus) {
    TestGuest guest(limits::kVcpusMax);
    for (uint32_t index = 0; index < limits::kVcpusMax; index++) {
        auto lapic = must(guest.vcpus[index].lapic());
        EXPECT_EQ(static_cast<uint8_t>(lapic.regs[0x23]), index) << "APIC ID";
        auto waits = index == 0 ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
        EXPECT_EQ(must(guest.vcpus[index].mp_state()).mp_state, static_cast<uint32_t>(waits));
    }
    guest.start(port_io_guest(), Privilege::ring0, limits::kVcpusMax - 1);
    expect_io(guest.run(limits::kVcpusMax - 1), KVM_EXIT_IO_OUT, 0x10, 1, 0x11);
}

}  // namespace
}  // namespace spore
