#include "hypervisor/boot/kernel.h"
#include "hypervisor/boot/layout.h"

namespace spore {

namespace {

// Intel SDM vol. 3 §2.5, §2.2.1
constexpr uint64_t kCr0ProtectionEnable = 1 << 0;
constexpr uint64_t kCr0ExtensionType = 1 << 4;  // reads as 1 always
constexpr uint64_t kCr0Paging = uint64_t{1} << 31;
constexpr uint64_t kCr4PhysicalAddressExtension = 1 << 5;
constexpr uint64_t kEferLongModeEnable = 1 << 8;
constexpr uint64_t kEferLongModeActive = 1 << 10;
constexpr uint64_t kFlagsReserved = 1 << 1;  // RFLAGS bit 1 is 1 always; interrupts are off

// Selectors of the GDT that load_kernel() writes.
constexpr uint16_t kSelectorCode32 = 0x08;
constexpr uint16_t kSelectorCode64 = 0x10;
constexpr uint16_t kSelectorData = 0x18;

constexpr uint8_t kTypeCode = 11;     // execute, read, accessed
constexpr uint8_t kTypeData = 3;      // read, write, accessed
constexpr uint8_t kTypeBusyTss = 11;  // as a system segment

kvm_segment flat(uint16_t selector, uint8_t type) {
    kvm_segment segment = {};
    segment.base = 0;
    segment.limit = 0xFFFF'FFFF;
    segment.selector = selector;
    segment.type = type;
    segment.present = 1;
    segment.s = 1;
    segment.g = 1;
    segment.db = 1;
    return segment;
}

kvm_segment code64() {
    kvm_segment segment = flat(kSelectorCode64, kTypeCode);
    segment.db = 0;
    segment.l = 1;
    return segment;
}

// PVH asks for a 32-bit TSS of base 0 and limit 0x67; long mode needs some TSS as well.
kvm_segment task_state() {
    kvm_segment segment = {};
    segment.limit = 0x67;
    segment.type = kTypeBusyTss;
    segment.present = 1;
    return segment;
}

}  // namespace

void start_state(const BootState& boot, kvm_regs& regs, kvm_sregs& sregs) {
    bool long_mode = boot.protocol == BootProtocol::linux64;
    regs = {};
    regs.rip = boot.entry.value();
    regs.rflags = kFlagsReserved;
    if (long_mode)
        regs.rsi = boot.info.value();
    else
        regs.rbx = boot.info.value();

    sregs.cs = long_mode ? code64() : flat(kSelectorCode32, kTypeCode);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(kSelectorData, kTypeData);
    sregs.tr = task_state();
    sregs.ldt = {};
    sregs.ldt.unusable = 1;
    sregs.gdt.base = layout::kGdt;
    sregs.gdt.limit = layout::kGdtBytes - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = kCr0ProtectionEnable | kCr0ExtensionType;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
    if (long_mode) {
        sregs.cr0 |= kCr0Paging;
        sregs.cr3 = layout::kPageTables;
        sregs.cr4 = kCr4PhysicalAddressExtension;
        sregs.efer = kEferLongModeEnable | kEferLongModeActive;
    }
}

}  // namespace spore
