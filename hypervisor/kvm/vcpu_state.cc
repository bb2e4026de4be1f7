// Saving and loading all of a vCPU. The order of loading is KVM's, learned the hard way by others:
// CPUID first (it decides which registers exist), special registers before the LAPIC (the APIC base
// is among them), the LAPIC before the MSRs (the other way round TSC_DEADLINE is silently dropped
// and the guest's timer never fires), events last.

#include <sys/ioctl.h>

#include <memory>

#include "hypervisor/kvm/kvm_abi.h"
#include "hypervisor/kvm/vcpu.h"

namespace spore {

Result<std::vector<kvm_msr_entry>> Vcpu::get_msrs(const std::vector<uint32_t>& indices) const {
    std::vector<kvm_msr_entry> msrs;
    auto table = std::make_unique<kvm_abi::MsrTable>();
    // KVM stops at the first MSR it cannot read and says how far it came: that one is left out (the
    // list names what the host may have, a guest's CPUID may lack the feature), the rest is asked
    // for.
    size_t next = 0;
    while (next < indices.size()) {
        size_t count = std::min(indices.size() - next, table->entries.size());
        table->header.count = static_cast<uint32_t>(count);
        for (size_t entry = 0; entry < count; entry++)
            table->entries[entry] = {.index = indices[next + entry], .reserved = 0, .data = 0};
        int got = ::ioctl(fd_.get(), kvm_abi::kGetMsrs, table.get());
        if (got < 0)
            return fail_errno("KVM_GET_MSRS");
        msrs.insert(msrs.end(), table->entries.begin(), table->entries.begin() + got);
        next += static_cast<size_t>(got) + (static_cast<size_t>(got) < count ? 1 : 0);
    }
    return msrs;
}

Status Vcpu::set_msrs(const std::vector<kvm_msr_entry>& msrs) {
    auto table = std::make_unique<kvm_abi::MsrTable>();
    if (msrs.size() > table->entries.size())
        return fail(Code::corrupt, "MSRs: " + std::to_string(msrs.size()) + ", at most " +
                                       std::to_string(table->entries.size()));
    table->header.count = static_cast<uint32_t>(msrs.size());
    std::copy(msrs.begin(), msrs.end(), table->entries.begin());
    size_t next = 0;
    while (next < msrs.size()) {
        table->header.count = static_cast<uint32_t>(msrs.size() - next);
        std::copy(msrs.begin() + static_cast<ssize_t>(next), msrs.end(), table->entries.begin());
        int done = ::ioctl(fd_.get(), kvm_abi::kSetMsrs, table.get());
        if (done < 0)
            return fail_errno("KVM_SET_MSRS");
        next += static_cast<size_t>(done);
        if (next == msrs.size())
            break;
        // One that KVM lets nobody write is fine as long as it has that value already.
        const kvm_msr_entry& refused = msrs[next];
        auto now = TRY(get_msrs({refused.index}));
        if (now.empty() || now[0].data != refused.data) {
            char text[96];
            std::snprintf(text, sizeof(text), "KVM_SET_MSRS: MSR 0x%x does not take 0x%llx",
                          refused.index, static_cast<unsigned long long>(refused.data));
            return fail(Code::version_mismatch, text);
        }
        next++;
    }
    return {};
}

Result<VcpuState> Vcpu::save(const std::vector<uint32_t>& msr_indices) const {
    VcpuState state;
    auto cpuid = std::make_unique<kvm_abi::CpuidTable>();
    cpuid->header.count = kvm_abi::kCpuidEntriesMax;
    TRY(get(kvm_abi::kGetCpuid2, "KVM_GET_CPUID2", cpuid.get()));
    state.cpuid.assign(cpuid->entries.begin(), cpuid->entries.begin() + cpuid->header.count);
    int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
    state.tsc_khz = khz > 0 ? static_cast<uint32_t>(khz) : 0;
    TRY(get(KVM_GET_REGS, "KVM_GET_REGS", &state.regs));
    // The events before the rest: reading the MP state may change them.
    TRY(get(KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state.mp_state));
    TRY(get(KVM_GET_SREGS, "KVM_GET_SREGS", &state.sregs));
    state.xsave.resize(xsave_bytes_);
    if (xsave_bytes_ > 4096)
        TRY(get(KVM_GET_XSAVE2, "KVM_GET_XSAVE2", state.xsave.data()));
    else
        TRY(get(KVM_GET_XSAVE, "KVM_GET_XSAVE", state.xsave.data()));
    TRY(get(KVM_GET_XCRS, "KVM_GET_XCRS", &state.xcrs));
    TRY(get(KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", &state.debugregs));
    TRY(get(KVM_GET_LAPIC, "KVM_GET_LAPIC", &state.lapic));
    state.msrs = TRY(get_msrs(msr_indices));
    TRY(get(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &state.events));
    return state;
}

Status Vcpu::load(const VcpuState& state) {
    if (state.xsave.size() != xsave_bytes_)
        return fail(Code::version_mismatch, "XSAVE area: " + std::to_string(state.xsave.size()) +
                                                " bytes in the snapshot, " +
                                                std::to_string(xsave_bytes_) + " on this host");
    TRY(set_cpuid(state.cpuid));
    int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
    // A rate within 250 ppm is taken as the same, as KVM itself does (tsc_tolerance_ppm).
    int64_t difference = static_cast<int64_t>(state.tsc_khz) - khz;
    if (state.tsc_khz != 0 && std::abs(difference) * 4000 > khz &&
        ::ioctl(fd_.get(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(state.tsc_khz)) != 0)
        return fail(Code::version_mismatch, "TSC: " + std::to_string(state.tsc_khz) +
                                                " kHz in the snapshot, " + std::to_string(khz) +
                                                " kHz on this host, which cannot scale it");
    TRY(set(KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state.mp_state));
    TRY(set(KVM_SET_REGS, "KVM_SET_REGS", &state.regs));
    TRY(set(KVM_SET_SREGS, "KVM_SET_SREGS", &state.sregs));
    TRY(set(KVM_SET_XSAVE, "KVM_SET_XSAVE", state.xsave.data()));
    TRY(set(KVM_SET_XCRS, "KVM_SET_XCRS", &state.xcrs));
    TRY(set(KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", &state.debugregs));
    TRY(set(KVM_SET_LAPIC, "KVM_SET_LAPIC", &state.lapic));
    TRY(set_msrs(state.msrs));
    TRY(set(KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &state.events));
    return {};
}

}  // namespace spore
