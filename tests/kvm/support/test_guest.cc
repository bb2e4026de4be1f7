#include "tests/kvm/support/test_guest.h"

namespace spore {

namespace {

// The tables: a PML4, a PDPT, and a page directory for each GiB.
constexpr uint64_t kPml4 = 0x10000, kPdpt = 0x11000, kDirectories = 0x12000, kGibMapped = 6;

kvm_segment segment(uint16_t selector, uint8_t type, uint8_t dpl, bool code) {
    kvm_segment result = {};
    result.limit = 0xffff'ffff;
    result.selector = static_cast<uint16_t>(selector | dpl);
    result.type = type;
    result.present = 1;
    result.dpl = dpl;
    result.s = 1;
    result.g = 1;
    result.l = code;
    result.db = !code;
    return result;
}

}  // namespace

TestGuest::TestGuest(uint32_t vcpu_count) {
    MemoryExtent extents[] = {{GuestAddress(0), 16 * limits::kMiB},
                              {GuestAddress(4 * limits::kGiB), limits::kGiB}};
    memory = must(GuestMemory::allocate(extents));
    write_page_tables();
    must(vm.set_memory(memory));
    auto supported = must(kvm.supported_cpuid());
    for (uint32_t index = 0; index < vcpu_count; index++) {
        vcpus.push_back(must(Vcpu::create(kvm, vm, index)));
        must(vcpus.back().prepare_for_boot(must(make_cpuid(supported, "host", index, vcpu_count))));
    }
}

void TestGuest::write_page_tables() {
    constexpr uint64_t kUserWritablePresent = 7, kLarge = 0x80;
    must(memory.write<uint64_t>(GuestAddress(kPml4), kPdpt | kUserWritablePresent));
    for (uint64_t gib = 0; gib < kGibMapped; gib++) {
        uint64_t directory = kDirectories + gib * 4096;
        must(memory.write<uint64_t>(GuestAddress(kPdpt + gib * 8),
                                    directory | kUserWritablePresent));
        for (uint64_t entry = 0; entry < 512; entry++) {
            uint64_t page = gib * limits::kGiB + entry * 2 * limits::kMiB;
            must(memory.write<uint64_t>(GuestAddress(directory + entry * 8),
                                        page | kUserWritablePresent | kLarge));
        }
    }
}

void TestGuest::start(std::span<const std::byte> code, Privilege privilege, uint32_t index) {
    must(memory.write_bytes(kGuestCode, code));
    bool user = privilege == Privilege::ring3;
    uint8_t dpl = user ? 3 : 0;
    auto sregs = must(vcpus[index].sregs());
    sregs.cs = segment(8, 11, dpl, true);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(16, 3, dpl, false);
    sregs.tr.type = 11;
    sregs.cr0 = 0x8000'0033;  // PG, NE, ET, MP, PE: the FPU is on
    sregs.cr3 = kPml4;
    sregs.cr4 = 0x620;   // OSXMMEXCPT, OSFXSR, PAE
    sregs.efer = 0x500;  // LMA, LME
    sregs.idt.limit = 0;
    must(vcpus[index].set_sregs(sregs));
    kvm_regs regs = {};
    regs.rip = kGuestCode.value();
    regs.rsp = 0x7000;
    regs.rflags = user ? 0x3002 : 2;  // IOPL 3: ports at CPL 3
    must(vcpus[index].set_regs(regs));
    kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE};
    must(vcpus[index].set_mp_state(runnable));
}

kvm_run& TestGuest::run(uint32_t index) {
    int error = 0;
    do {
        error = vcpus[index].run();
    } while (error == EINTR || error == EAGAIN);
    if (error != 0)
        throw std::runtime_error(std::string("KVM_RUN: ") + std::strerror(error));
    return vcpus[index].run_page();
}

std::span<std::byte> TestGuest::io_bytes(kvm_run& run) {
    return {reinterpret_cast<std::byte*>(&run) + run.io.data_offset,
            size_t{run.io.size} * run.io.count};
}

}  // namespace spore
