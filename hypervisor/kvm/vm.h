#pragma once

// One virtual machine in the kernel: memory slots, split interrupt chip, doorbells, clock.

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

// A VM belongs to the process that made it. Any thread, as KVM's ioctls allow.
class Vm {
  public:
    // Makes a VM with the LAPICs in the kernel and nothing else: no PIC, IOAPIC or PIT, whose
    // registration alone makes setting a memory slot ten times dearer (shared/facts.md). An
    // emulation failure exits with the instruction's bytes. Errors: KVM's.
    static Result<Vm> create(const Kvm& kvm);

    int fd() const { return fd_.get(); }

    // One slot for each region. Before the doorbells: a slot set after them waits for a grace
    // period of several ms. `memory` must outlive the VM. Errors: KVM's.
    Status set_memory(const GuestMemory& memory);

    // From now on KVM notes which pages the guest writes, or stops doing so. Changes every slot,
    // and so waits for a grace period (ms) if there are doorbells. `memory`: set_memory()'s.
    Status log_dirty_pages(const GuestMemory& memory, bool on);
    // The pages of `memory`'s region number `slot` written since logging began or since the last
    // call, a bit for each 4 KiB page. Errors: KVM's, if nothing is logged.
    Result<std::vector<uint64_t>> take_dirty_pages(const GuestMemory& memory, uint32_t slot) const;

    // Delivers one message-signalled interrupt. One ioctl and nothing to register before: no GSI
    // routes, no irqfds, which a restored machine would have to pay for first. Errors: KVM's.
    Status signal_msi(uint64_t address, uint32_t data) const;

    // A guest's write of any width to `address` signals `eventfd` instead of exiting. Removing, and
    // closing a VM that has one, waits for a grace period: never on a request's path.
    Status add_doorbell(GuestAddress address, int eventfd) const;
    Status remove_doorbell(GuestAddress address, int eventfd) const;

    // kvmclock: what the guest's clock shows (KVM_GET_CLOCK, KVM_SET_CLOCK).
    Result<kvm_clock_data> clock() const;
    // Lets the guest's clock go on from `clock`; how long it stood still is not added.
    Status set_clock(const kvm_clock_data& clock) const;

    Result<UniqueFd> create_vcpu(uint32_t index) const;

  private:
    explicit Vm(UniqueFd fd) : fd_(std::move(fd)) {}
    Status set_slots(const GuestMemory& memory, uint32_t flags);
    Status enable(unsigned capability, uint64_t argument, const char* name) const;
    Status set_doorbell(GuestAddress address, int eventfd, uint32_t flags) const;
    UniqueFd fd_;
};

}  // namespace spore
