#include "hypervisor/vmm/vm_exit.h"

#include <linux/kvm.h>

#include <array>

namespace spore {

std::string_view reason_name(VmExit::Reason reason) {
    switch (reason) {
        case VmExit::Reason::power_off:
            return "power off";
        case VmExit::Reason::reset:
            return "reset";
        case VmExit::Reason::triple_fault:
            return "triple fault";
        case VmExit::Reason::emulation_failure:
            return "emulation failure";
        case VmExit::Reason::internal_error:
            return "KVM internal error";
        case VmExit::Reason::entry_failure:
            return "entry failure";
        case VmExit::Reason::host_error:
            return "host error";
        case VmExit::Reason::quit:
            return "quit";
    }
    return "unknown";
}

std::string_view kvm_exit_name(uint32_t number) {
    // By number, as <linux/kvm.h> defines them.
    static constexpr auto kNames = std::to_array<std::string_view>({
        "KVM_EXIT_UNKNOWN",
        "KVM_EXIT_EXCEPTION",
        "KVM_EXIT_IO",
        "KVM_EXIT_HYPERCALL",
        "KVM_EXIT_DEBUG",
        "KVM_EXIT_HLT",
        "KVM_EXIT_MMIO",
        "KVM_EXIT_IRQ_WINDOW_OPEN",
        "KVM_EXIT_SHUTDOWN",
        "KVM_EXIT_FAIL_ENTRY",
        "KVM_EXIT_INTR",
        "KVM_EXIT_SET_TPR",
        "KVM_EXIT_TPR_ACCESS",
        "KVM_EXIT_S390_SIEIC",
        "KVM_EXIT_S390_RESET",
        "KVM_EXIT_DCR",
        "KVM_EXIT_NMI",
        "KVM_EXIT_INTERNAL_ERROR",
        "KVM_EXIT_OSI",
        "KVM_EXIT_PAPR_HCALL",
        "KVM_EXIT_S390_UCONTROL",
        "KVM_EXIT_WATCHDOG",
        "KVM_EXIT_S390_TSCH",
        "KVM_EXIT_EPR",
        "KVM_EXIT_SYSTEM_EVENT",
        "KVM_EXIT_S390_STSI",
        "KVM_EXIT_IOAPIC_EOI",
        "KVM_EXIT_HYPERV",
        "KVM_EXIT_ARM_NISV",
        "KVM_EXIT_X86_RDMSR",
        "KVM_EXIT_X86_WRMSR",
        "KVM_EXIT_DIRTY_RING_FULL",
        "KVM_EXIT_AP_RESET_HOLD",
        "KVM_EXIT_X86_BUS_LOCK",
        "KVM_EXIT_XEN",
        "KVM_EXIT_RISCV_SBI",
        "KVM_EXIT_RISCV_CSR",
        "KVM_EXIT_NOTIFY",
        "KVM_EXIT_LOONGARCH_IOCSR",
        "KVM_EXIT_MEMORY_FAULT",  // newer than Debian 12's header
    });
    static_assert(kNames[KVM_EXIT_SYSTEM_EVENT] == "KVM_EXIT_SYSTEM_EVENT");
    static_assert(kNames[KVM_EXIT_NOTIFY] == "KVM_EXIT_NOTIFY");
    return number < kNames.size() ? kNames[number] : "KVM_EXIT_?";
}

}  // namespace spore
