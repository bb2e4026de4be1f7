#pragma once

// Why a VM ended.

#include <cstdint>
#include <string>
#include <string_view>

namespace spore {

struct VmExit {
    enum class Reason {
        power_off,          // the guest switched itself off
        reset,              // the guest asked for a reboot
        triple_fault,       // the guest's processor shut down
        emulation_failure,  // KVM met an instruction it cannot emulate
        internal_error,     // KVM gave up for another reason
        entry_failure,      // the processor refused the guest's state
        host_error,         // a system call of ours failed
        quit,               // we were told to
    };
    Reason reason = Reason::quit;
    std::string detail;  // for people; may be empty
};

// "power off", "triple fault".
std::string_view reason_name(VmExit::Reason reason);

// The name of a KVM_EXIT_* number as <linux/kvm.h> spells it, "KVM_EXIT_IO"; "KVM_EXIT_?" for one
// newer than Linux 6.8.
std::string_view kvm_exit_name(uint32_t number);

}  // namespace spore
