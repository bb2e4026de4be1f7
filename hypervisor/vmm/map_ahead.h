#pragma once

// A waiting clone's working set in the second level of page tables, KVM's, before anybody wants the
// clone: with nested paging it is there that each first touch of a page costs an exit, and those
// are most of the time that a clone takes to confirm its identity (ARCHITECTURE.md, The working
// set).

#include <span>

#include "hypervisor/kvm/kvm.h"
#include "hypervisor/kvm/vcpu.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

// Whether the kernel has KVM_PRE_FAULT_MEMORY, and nested pages, without which it is of no use.
bool can_pre_fault(const Kvm& kvm);

// By KVM_PRE_FAULT_MEMORY where the kernel has it (Linux 6.10). Else the vCPU itself reads each
// page: a loop of some bytes, put in the place of kernel code and taken out again, runs as kernel
// code in the guest's own address space, with interrupts off, and `state` is loaded again behind
// it; nothing of the guest's runs. For that the guest must be in 64-bit mode with page tables that
// have the pages (memory/page_tables.h), or in protected mode without paging.
//
// `vcpu` has the paging of `state` at least (Vcpu::load_paging), is the first, and was never run;
// on the thread that will run it. Returns how many pages are mapped: 0 where neither way is open.
// Errors: KVM's, and an exit that nobody asked for; the vCPU is of no use then.
Result<uint64_t> map_ahead(const Kvm& kvm, Vcpu& vcpu, const VcpuState& state,
                           const GuestMemory& memory, std::span<const MemoryExtent> pages);

}  // namespace spore
