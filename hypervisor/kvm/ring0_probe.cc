#include "hypervisor/kvm/ring0_probe.h"

#include <chrono>
#include <optional>

#include "hypervisor/kvm/kvm.h"
#include "hypervisor/kvm/vcpu.h"
#include "hypervisor/kvm/vm.h"

namespace spore {

namespace {

constexpr uint64_t kMemoryBytes = 64 * 1024;
constexpr GuestAddress kPml4(0x1000), kPdpt(0x2000), kPageDirectory(0x3000), kCode(0x4000);
constexpr uint16_t kDonePort = 0xe9;

constexpr uint8_t kLoop[] = {
    0xff, 0xc9,       // loop: dec ecx
    0x75, 0xfc,       //       jnz loop
    0xe6, kDonePort,  //       out kDonePort, al
};
constexpr uint64_t kInstructionsPerTurn = 2;

constexpr uint32_t kTurnsFirst = 100;
constexpr uint32_t kTurnsMax = 1'000'000;
constexpr std::chrono::milliseconds kLongEnough(5);  // an exit and re-entry are far below it

kvm_segment segment(uint16_t selector, uint8_t type, bool code) {
    kvm_segment result = {};
    result.limit = 0xffff'ffff;
    result.selector = selector;
    result.type = type;
    result.present = 1;
    result.s = 1;
    result.g = 1;
    result.l = code;
    result.db = !code;
    return result;
}

// Long mode with the first 2 MiB mapped onto themselves (SDM 3A §4.5, §10.8.5).
void enter_long_mode(kvm_sregs& sregs) {
    constexpr uint64_t kCr0ProtectionPagingType = 0x8000'0011, kCr4Pae = 0x20, kEferLmeLma = 0x500;
    sregs.cs = segment(8, 11, true);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(16, 3, false);
    sregs.tr.type = 11;  // a busy 64-bit TSS: VMX refuses any other
    sregs.cr0 = kCr0ProtectionPagingType;
    sregs.cr3 = kPml4.value();
    sregs.cr4 = kCr4Pae;
    sregs.efer = kEferLmeLma;
}

Status write_guest(const GuestMemory& memory) {
    constexpr uint64_t kPresentWritable = 3, kLarge = 0x80;
    TRY(memory.write<uint64_t>(kPml4, kPdpt.value() | kPresentWritable));
    TRY(memory.write<uint64_t>(kPdpt, kPageDirectory.value() | kPresentWritable));
    TRY(memory.write<uint64_t>(kPageDirectory, kPresentWritable | kLarge));
    return memory.write_bytes(kCode, std::as_bytes(std::span(kLoop)));
}

// Runs `turns` of the loop; how long that took.
Result<std::chrono::nanoseconds> time_turns(Vcpu& vcpu, uint32_t turns) {
    kvm_regs regs = {};
    regs.rip = kCode.value();
    regs.rflags = 2;
    regs.rcx = turns;
    TRY(vcpu.set_regs(regs));
    auto start = std::chrono::steady_clock::now();
    int error = 0;
    do {
        error = vcpu.run();
    } while (error == EINTR || error == EAGAIN);
    auto elapsed = std::chrono::steady_clock::now() - start;
    if (error != 0)
        return fail_errno("ring 0 probe: KVM_RUN", error);
    const kvm_run& run = vcpu.run_page();
    if (run.exit_reason != KVM_EXIT_IO || run.io.port != kDonePort)
        return fail(Code::host_unsupported,
                    "ring 0 probe: a loop of two instructions ends in KVM exit " +
                        std::to_string(run.exit_reason));
    if (!TRY(vcpu.complete_access()))
        return fail(Code::host_unsupported, "ring 0 probe: an output to a port exits twice");
    return elapsed;
}

}  // namespace

Result<Ring0Speed> measure_ring0() {
    auto kvm = TRY(Kvm::open());
    MemoryExtent extent = {GuestAddress(0), kMemoryBytes};
    auto memory = TRY(GuestMemory::allocate(std::span(&extent, 1)));
    TRY(write_guest(memory));
    auto vm = TRY(Vm::create(kvm));
    TRY(vm.set_memory(memory));
    auto vcpu = TRY(Vcpu::create(kvm, vm, 0));
    // Before registers that not every CPU has: Linux 6.12 takes no long mode for one without CPUID.
    TRY(vcpu.set_cpuid(TRY(kvm.supported_cpuid())));
    auto sregs = TRY(vcpu.sregs());
    enter_long_mode(sregs);
    TRY(vcpu.set_sregs(sregs));

    TRY(time_turns(vcpu, 1));  // the first entry faults the pages in
    auto base = TRY(time_turns(vcpu, 1));
    Ring0Speed speed;
    uint32_t turns = kTurnsFirst;
    auto elapsed = TRY(time_turns(vcpu, turns));
    while (elapsed < kLongEnough && turns < kTurnsMax) {
        turns = std::min(turns * 8, kTurnsMax);
        elapsed = TRY(time_turns(vcpu, turns));
    }
    auto per_instruction = [&] {
        auto loop = std::max(elapsed - base, std::chrono::nanoseconds(0));
        return static_cast<double>(loop.count()) /
               static_cast<double>(kInstructionsPerTurn * (turns - 1));
    };
    // A busy host takes the CPU away in between: the best of a few counts.
    for (int again = 0; again < 4 && per_instruction() > kRing0NsMax; again++)
        elapsed = std::min(elapsed, TRY(time_turns(vcpu, turns)));
    speed.ns_per_instruction = per_instruction();
    speed.runs_linux = speed.ns_per_instruction <= kRing0NsMax;
    return speed;
}

}  // namespace spore
