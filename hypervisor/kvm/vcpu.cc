#include "hypervisor/kvm/vcpu.h"

#include <sys/ioctl.h>

#include "hypervisor/kvm/cpuid.h"
#include "hypervisor/kvm/kvm_abi.h"

namespace spore {

Result<Vcpu> Vcpu::create(const Kvm& kvm, const Vm& vm, uint32_t index) {
    auto fd = TRY(vm.create_vcpu(index));
    auto run =
        TRY(Mapping::create(kvm.vcpu_mmap_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get()));
    int xsave = kvm.extension(KVM_CAP_XSAVE2);
    size_t xsave_bytes = xsave > 4096 ? static_cast<size_t>(xsave) : 4096;
    return Vcpu(std::move(fd), std::move(run), index, xsave_bytes);
}

Status Vcpu::get(unsigned long request, const char* name, void* out) const {
    if (::ioctl(fd_.get(), request, out) < 0)
        return fail_errno(name);
    return {};
}

Status Vcpu::set(unsigned long request, const char* name, const void* in) {
    if (::ioctl(fd_.get(), request, in) < 0)
        return fail_errno(name);
    return {};
}

Status Vcpu::set_cpuid(const std::vector<kvm_cpuid_entry2>& entries) {
    kvm_abi::CpuidTable table;
    if (entries.size() > table.entries.size())
        return fail(Code::corrupt, "CPUID: " + std::to_string(entries.size()) +
                                       " entries, at most " + std::to_string(table.entries.size()));
    table.header.count = static_cast<uint32_t>(entries.size());
    std::copy(entries.begin(), entries.end(), table.entries.begin());
    TRY(set(kvm_abi::kSetCpuid2, "KVM_SET_CPUID2", &table));
    cpuid_ = entries;
    return {};
}

Status Vcpu::prepare_for_boot(const std::vector<kvm_cpuid_entry2>& entries) {
    constexpr uint32_t kMsrMiscEnable = 0x1a0, kMsrMtrrDefault = 0x2ff;
    constexpr uint64_t kFastStrings = 1, kEnabledWriteBack = 0x806;
    TRY(set_cpuid(entries));
    TRY(set_msrs({{kMsrMiscEnable, 0, kFastStrings}, {kMsrMtrrDefault, 0, kEnabledWriteBack}}));
    uint64_t offered = cpuid_xcr0(entries);
    if (offered == 1)
        return {};  // as it is at reset
    // At reset XCR0 is 1 and the guest sets it with XSETBV. QEMU's TCG, as a host, does not
    // intercept that: KVM never hears of it, puts 1 back at the next entry, and the guest's XSAVE
    // from then on saves no vector registers. What a guest sets anyway is what KVM knows if it is
    // there from the start; INIT keeps it.
    kvm_xcrs xcrs = {};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = offered;
    return set(KVM_SET_XCRS, "KVM_SET_XCRS", &xcrs);
}

Result<kvm_regs> Vcpu::regs() const {
    kvm_regs regs = {};
    TRY(get(KVM_GET_REGS, "KVM_GET_REGS", &regs));
    return regs;
}

Status Vcpu::set_regs(const kvm_regs& regs) {
    return set(KVM_SET_REGS, "KVM_SET_REGS", &regs);
}

Result<kvm_sregs> Vcpu::sregs() const {
    kvm_sregs sregs = {};
    TRY(get(KVM_GET_SREGS, "KVM_GET_SREGS", &sregs));
    return sregs;
}

Status Vcpu::set_sregs(const kvm_sregs& sregs) {
    return set(KVM_SET_SREGS, "KVM_SET_SREGS", &sregs);
}

Result<kvm_lapic_state> Vcpu::lapic() const {
    kvm_lapic_state lapic = {};
    TRY(get(KVM_GET_LAPIC, "KVM_GET_LAPIC", &lapic));
    return lapic;
}

Result<kvm_mp_state> Vcpu::mp_state() const {
    kvm_mp_state state = {};
    TRY(get(KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state));
    return state;
}

Status Vcpu::set_mp_state(const kvm_mp_state& state) {
    return set(KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state);
}

Status Vcpu::set_events(const kvm_vcpu_events& events) {
    return set(KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &events);
}

Status Vcpu::pre_fault(GuestAddress start, uint64_t size) {
    kvm_abi::PreFaultMemory request = {start.value(), size, 0, {}};
    while (request.size != 0) {  // it says how far it came
        if (::ioctl(fd_.get(), kvm_abi::kPreFaultMemory, &request) < 0 && errno != EINTR &&
            errno != EAGAIN)
            return fail_errno("KVM_PRE_FAULT_MEMORY");
    }
    return {};
}

int Vcpu::run() {
    return ::ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno;
}

Result<bool> Vcpu::complete_access() {
    run_page().immediate_exit = 1;
    int error = run();
    run_page().immediate_exit = 0;
    if (error == EINTR || error == EAGAIN)
        return true;
    if (error != 0)
        return fail_errno("KVM_RUN", error);
    return false;
}

void Vcpu::mark_stopped() {
    ::ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
}

}  // namespace spore
