#pragma once

// One virtual CPU in the kernel.

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "hypervisor/base/mapping.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/kvm/vm.h"

namespace spore {

// All there is to save of a vCPU. Kernel structures as the API defines them.
struct VcpuState {
    std::vector<kvm_cpuid_entry2> cpuid;
    uint32_t tsc_khz = 0;
    kvm_regs regs = {};
    kvm_sregs sregs = {};
    std::vector<uint8_t> xsave;  // of the size KVM_CAP_XSAVE2 tells, 4096 at least
    kvm_xcrs xcrs = {};
    kvm_debugregs debugregs = {};
    kvm_lapic_state lapic = {};
    std::vector<kvm_msr_entry> msrs;
    kvm_mp_state mp_state = {};
    kvm_vcpu_events events = {};
};

// Used by one thread at a time: the one that runs it, or the loop thread while it is parked.
class Vcpu {
  public:
    static Result<Vcpu> create(const Kvm& kvm, const Vm& vm, uint32_t index);

    uint32_t index() const { return index_; }
    kvm_run& run_page() const { return *reinterpret_cast<kvm_run*>(run_.data()); }

    Status set_cpuid(const std::vector<kvm_cpuid_entry2>& entries);
    // For a machine that boots: sets CPUID and what firmware would leave behind: XCR0 with all that
    // CPUID offers, memory cached unless a page table says else, fast string instructions.
    Status prepare_for_boot(const std::vector<kvm_cpuid_entry2>& entries);
    Result<kvm_regs> regs() const;
    Status set_regs(const kvm_regs& regs);
    Result<kvm_sregs> sregs() const;
    Status set_sregs(const kvm_sregs& sregs);
    Result<kvm_lapic_state> lapic() const;
    // Whether it runs, halts, or waits for INIT and SIPI (as all but the first do when new).
    Result<kvm_mp_state> mp_state() const;
    Status set_mp_state(const kvm_mp_state& state);

    Status set_events(const kvm_vcpu_events& events);

    // Has KVM map [start, start + size) of guest memory, whole pages, as a guest's reading would,
    // with what the host has in place there (KVM_PRE_FAULT_MEMORY, capability
    // kvm_abi::kCapPreFaultMemory). Loaded, not running. Errors: KVM's.
    Status pre_fault(GuestAddress start, uint64_t size);

    // KVM_RUN until the next exit: 0, or the errno: EINTR and EAGAIN are not failures. Always on
    // one thread: KVM waits for an RCU grace period (ms) when another one enters.
    int run();
    // Lets KVM finish an access that it has exited for (the value into the register, the
    // instruction stepped over), which it does at the next entry, without running the guest on.
    // False: that led to another exit, which is to be handled before this is called again. Not
    // while another thread may set immediate_exit (see VcpuThread), which is 0 afterwards. Errors:
    // KVM_RUN's.
    Result<bool> complete_access();

    // Those of `indices` that this vCPU has, in that order.
    Result<std::vector<kvm_msr_entry>> get_msrs(const std::vector<uint32_t>& indices) const;
    // One that KVM lets nobody write is fine as long as it has that value already. Errors:
    // version_mismatch, naming the first that does not take its value.
    Status set_msrs(const std::vector<kvm_msr_entry>& msrs);

    // Everything; with no exit half done (see VcpuThread). `msr_indices`: Kvm::msr_indices().
    Result<VcpuState> save(const std::vector<uint32_t>& msr_indices) const;
    // The part of load() that decides how KVM maps memory for this vCPU, CPUID and special
    // registers, ahead of the rest; load() of the same state leaves CPUID alone then, which would
    // have KVM give up what it has mapped. Errors: as load().
    Status load_paging(const VcpuState& state);
    // Onto a vCPU fresh from create(), or from load_paging() and map_ahead(). With `tsc_offset`
    // (guest TSC less host TSC) the TSC becomes that; without, it goes on from where the state has
    // it. A machine of several uses load_vcpus(). Errors: corrupt for a state of the wrong shape,
    // version_mismatch, KVM's.
    Status load(const VcpuState& state, std::optional<uint64_t> tsc_offset = std::nullopt);
    // Nothing where the kernel has no such attribute (before 5.16).
    std::optional<uint64_t> tsc_offset() const;
    // That of load(); nothing where KVM has not taken one.
    std::optional<uint64_t> loaded_tsc_offset() const { return loaded_tsc_offset_; }
    // What KVM adds the offset to: the host's TSC, at the guest's rate. Nothing where it keeps no
    // offset.
    Result<std::optional<uint64_t>> host_tsc() const;
    // A KVM that cannot offset the TSC takes this and says nothing.
    Status set_tsc_offset(uint64_t offset);
    // Tells the guest that it was stopped, so that its watchdogs do not bark (KVM_KVMCLOCK_CTRL).
    // A guest that does not use kvmclock is left alone.
    void mark_stopped();

  private:
    Vcpu(UniqueFd fd, Mapping run, uint32_t index, size_t xsave_bytes)
        : fd_(std::move(fd)), run_(std::move(run)), index_(index), xsave_bytes_(xsave_bytes) {}
    Status get(unsigned long request, const char* name, void* out) const;
    Status set(unsigned long request, const char* name, const void* in);
    Status load_tsc_khz(uint32_t khz);
    Result<std::vector<kvm_msr_entry>> load_tsc(const VcpuState& state,
                                                std::optional<uint64_t> tsc_offset);

    UniqueFd fd_;
    Mapping run_;
    uint32_t index_;
    size_t xsave_bytes_;
    std::vector<kvm_cpuid_entry2> cpuid_;  // as it was set
    bool paging_loaded_ = false;           // by load_paging()
    bool tsc_scaled_ = false;              // its TSC has a rate of its own
    std::optional<uint64_t> loaded_tsc_offset_;
};

// Loads all vCPUs of a machine, fresh from create(), with their TSCs as far apart as they were: not
// at all, unless the guest made it so. The first one's goes on from where its state has it. Before
// Vm::set_clock() and the first run. Errors: Vcpu::load()'s; invalid_argument if the numbers
// differ.
Status load_vcpus(std::span<Vcpu> vcpus, std::span<const VcpuState> states);

// What goes on in a vCPU from the moment it is loaded, whether it runs or not.
struct VcpuTime {
    uint64_t tsc = 0;
    uint64_t tsc_deadline = 0;  // 0: the timer is not armed
};
VcpuTime time_of(const VcpuState& state);
// Puts the TSCs and their timers back to `times`, those of the states that were loaded, for a
// machine that has not run since: what it waited is not the guest's time. Before Vm::set_clock().
// Where KVM keeps no TSC offset the TSC counts on. Errors: KVM's.
Status rewind_vcpus(std::span<Vcpu> vcpus, std::span<const VcpuTime> times);

}  // namespace spore
