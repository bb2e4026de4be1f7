#pragma once

// Loads a Linux kernel, its initrd and its command line into guest memory, and says how the boot
// vCPU starts. UNTRUSTED: kernel files. Fuzz target: fuzz-kernel.

#include <linux/kvm.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "hypervisor/base/result.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

enum class BootProtocol {
    pvh,      // an ELF vmlinux with PVH entry: 32-bit protected mode, no paging
    linux64,  // a bzImage's 64-bit entry: long mode, the first 4 GiB identity-mapped
};

struct KernelSource {
    int kernel = -1;          // open for reading, a regular file; not owned
    std::string kernel_name;  // for messages
    int initrd = -1;          // -1: none
    std::string initrd_name;
    std::string_view command_line;  // without a terminating zero
};

// Where the boot vCPU starts, and what it is told. start_state() makes registers of it.
struct BootState {
    BootProtocol protocol = BootProtocol::pvh;
    GuestAddress entry;
    GuestAddress info;  // PVH start info, or the zero page
    uint64_t kernel_end = 0;
    GuestAddress initrd_start;
    uint64_t initrd_bytes = 0;
};

// Loads `source` into `memory`, which must be fresh (zeroes) and laid out by memory_extents(). The
// kind of kernel is told from its first bytes. The ACPI tables are not written: write_acpi_tables()
// does that, at the address which the kernel is told here. Blocks while it reads the files.
// Errors: corrupt for files that break their format; invalid_argument for what cannot work (not a
// kernel, no PVH entry, too large for the memory, command line too long); the system calls'.
Result<BootState> load_kernel(const GuestMemory& memory, const KernelSource& source);

// Sets up what the boot protocol prescribes. `sregs` must be what KVM_GET_SREGS gave for the new
// vCPU: only what the protocols speak of is changed (the APIC base is not, for instance).
void start_state(const BootState& boot, kvm_regs& regs, kvm_sregs& sregs);

}  // namespace spore
