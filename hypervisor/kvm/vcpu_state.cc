// Saving and loading all of a vCPU. The order of loading is KVM's, learned the hard way by others:
// CPUID first (it decides which registers exist), special registers before the LAPIC (the APIC base
// is among them), the LAPIC before the MSRs (the other way round TSC_DEADLINE is silently dropped
// and the guest's timer never fires), events last.

#include <sys/ioctl.h>
#include <x86intrin.h>

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "hypervisor/kvm/kvm_abi.h"
#include "hypervisor/kvm/vcpu.h"

namespace spore {

namespace {
constexpr uint32_t kMsrTsc = 0x10, kMsrTscAdjust = 0x3b, kMsrTscDeadline = 0x6e0;
constexpr uint32_t kMsrKvmclock = 0x4b564d01;  // MSR_KVM_SYSTEM_TIME_NEW
constexpr uint64_t kKvmclockOn = 1;
constexpr size_t kXsaveBytesMin = 4096;

uint64_t msr_or_0(const VcpuState& state, uint32_t index) {
    auto found = std::ranges::find(state.msrs, index, &kvm_msr_entry::index);
    return found == state.msrs.end() ? 0 : found->data;
}

// As after a reset (SDM 3A, table 10-1), which is what a fresh vCPU has.
bool is_reset(const kvm_debugregs& registers) {
    constexpr uint64_t kDr6Reset = 0xffff0ff0, kDr7Reset = 0x400;
    return std::ranges::all_of(registers.db, [](uint64_t address) { return address == 0; }) &&
           registers.dr6 == kDr6Reset && registers.dr7 == kDr7Reset;
}

// Nothing pending, injected or masked: a fresh vCPU's. Its flags only say which fields are valid.
bool is_quiet(kvm_vcpu_events events) {
    events.flags = 0;
    constexpr kvm_vcpu_events kNone = {};
    return std::memcmp(&events, &kNone, sizeof(events)) == 0;
}
}  // namespace

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
    // First, as it lets a pending INIT or SIPI take effect, which changes all the rest.
    TRY(get(KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state.mp_state));
    // As it was set, not KVM_GET_CPUID2: that has what control registers make of it, and under
    // kvm-pvm the host's own bits, with which no host would take the snapshot.
    state.cpuid = cpuid_;
    int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
    state.tsc_khz = khz > 0 ? static_cast<uint32_t>(khz) : 0;
    TRY(get(KVM_GET_REGS, "KVM_GET_REGS", &state.regs));
    TRY(get(KVM_GET_SREGS, "KVM_GET_SREGS", &state.sregs));
    state.xsave.resize(xsave_bytes_);
    if (xsave_bytes_ > kXsaveBytesMin)
        TRY(get(kvm_abi::kGetXsave2, "KVM_GET_XSAVE2", state.xsave.data()));
    else
        TRY(get(kvm_abi::kGetXsave, "KVM_GET_XSAVE", state.xsave.data()));
    TRY(get(KVM_GET_XCRS, "KVM_GET_XCRS", &state.xcrs));
    TRY(get(KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", &state.debugregs));
    // The timer's MSR before the LAPIC: where KVM delivers an expired timer without the vCPU
    // running (pi_inject_timer), the other order could save it as neither armed nor delivered.
    state.msrs = TRY(get_msrs(msr_indices));
    TRY(get(KVM_GET_LAPIC, "KVM_GET_LAPIC", &state.lapic));
    TRY(get(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &state.events));
    return state;
}

Status Vcpu::load_paging(const VcpuState& state) {
    TRY(set_cpuid(state.cpuid));
    paging_loaded_ = true;
    return set(KVM_SET_SREGS, "KVM_SET_SREGS", &state.sregs);
}

Status Vcpu::load(const VcpuState& state, std::optional<uint64_t> tsc_offset) {
    if (state.xsave.size() != xsave_bytes_)
        return fail(Code::version_mismatch, "XSAVE area: " + std::to_string(state.xsave.size()) +
                                                " bytes in the snapshot, " +
                                                std::to_string(xsave_bytes_) + " on this host");
    if (!paging_loaded_)
        TRY(set_cpuid(state.cpuid));
    TRY(load_tsc_khz(state.tsc_khz));
    // Each ioctl of a vCPU costs 5 us here: what it has already is not set.
    if (index_ != 0 || state.mp_state.mp_state != KVM_MP_STATE_RUNNABLE)
        TRY(set(KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state.mp_state));
    TRY(set(KVM_SET_REGS, "KVM_SET_REGS", &state.regs));
    TRY(set(KVM_SET_SREGS, "KVM_SET_SREGS", &state.sregs));
    TRY(set(kvm_abi::kSetXsave, "KVM_SET_XSAVE", state.xsave.data()));
    TRY(set(KVM_SET_XCRS, "KVM_SET_XCRS", &state.xcrs));
    if (!is_reset(state.debugregs))
        TRY(set(KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", &state.debugregs));
    TRY(set(KVM_SET_LAPIC, "KVM_SET_LAPIC", &state.lapic));
    auto msrs = TRY(load_tsc(state, tsc_offset));
    TRY(set_msrs(msrs));
    if (!is_quiet(state.events))
        TRY(set(KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &state.events));
    if ((msr_or_0(state, kMsrKvmclock) & kKvmclockOn) != 0)
        mark_stopped();  // it was, and KVM does not save that it told the guest
    return {};
}

Status Vcpu::load_tsc_khz(uint32_t khz) {
    int here = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
    // A rate within 250 ppm is taken as the same, as KVM itself does (tsc_tolerance_ppm).
    int64_t difference = static_cast<int64_t>(khz) - here;
    if (khz == 0 || here <= 0 || std::abs(difference) * 4000 <= here)
        return {};
    tsc_scaled_ = true;
    if (::ioctl(fd_.get(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)) != 0)
        return fail(Code::version_mismatch, "TSC: " + std::to_string(khz) +
                                                " kHz in the snapshot, " + std::to_string(here) +
                                                " kHz on this host, which cannot scale it");
    return {};
}

std::optional<uint64_t> Vcpu::tsc_offset() const {
    uint64_t offset = 0;
    kvm_device_attr request = {};
    request.group = KVM_VCPU_TSC_CTRL;
    request.attr = KVM_VCPU_TSC_OFFSET;
    request.addr = reinterpret_cast<uintptr_t>(&offset);
    if (::ioctl(fd_.get(), KVM_GET_DEVICE_ATTR, &request) != 0)
        return std::nullopt;
    return offset;
}

Status Vcpu::set_tsc_offset(uint64_t offset) {
    kvm_device_attr request = {};
    request.group = KVM_VCPU_TSC_CTRL;
    request.attr = KVM_VCPU_TSC_OFFSET;
    request.addr = reinterpret_cast<uintptr_t>(&offset);
    return set(KVM_SET_DEVICE_ATTR, "KVM_SET_DEVICE_ATTR KVM_VCPU_TSC_OFFSET", &request);
}

// Sets the TSC; the MSRs that are still to be set. By its offset, because KVM takes a TSC that is
// written as an attempt to step into line with the vCPU written before (kvm_synchronize_tsc): that
// of a guest which is younger than a second would not come back, but go on from this VM's creation.
Result<std::vector<kvm_msr_entry>> Vcpu::load_tsc(const VcpuState& state,
                                                  std::optional<uint64_t> tsc_offset) {
    std::vector<kvm_msr_entry> rest = state.msrs;
    auto saved = std::ranges::find(rest, kMsrTsc, &kvm_msr_entry::index);
    if (saved == rest.end())
        return rest;
    if (!tsc_offset) {
        auto host = TRY(host_tsc());
        if (!host)
            return rest;
        tsc_offset = saved->data - *host;
    }
    // A KVM that cannot do that gets the value, to do what it can.
    if (set_tsc_offset(*tsc_offset) && this->tsc_offset() == tsc_offset) {
        loaded_tsc_offset_ = tsc_offset;
        rest.erase(saved);
    }
    return rest;
}

Result<std::optional<uint64_t>> Vcpu::host_tsc() const {
    if (!tsc_scaled_)
        return __rdtsc();
    auto offset = tsc_offset();
    if (!offset)
        return std::nullopt;
    auto now = TRY(get_msrs({kMsrTsc}));
    if (now.size() != 1)
        return fail(Code::host_unsupported, "KVM_GET_MSRS: no TSC");
    return now[0].data - *offset;
}

namespace {

// How far the guest has moved this vCPU's TSC by itself: writes of IA32_TSC move it too (SDM 3B,
// "IA32_TSC_ADJUST").
uint64_t tsc_adjust(const VcpuState& state) {
    return msr_or_0(state, kMsrTscAdjust);
}

}  // namespace

Status load_vcpus(std::span<Vcpu> vcpus, std::span<const VcpuState> states) {
    if (vcpus.size() != states.size())
        return fail(Code::invalid_argument, "vCPUs: " + std::to_string(states.size()) +
                                                " in the snapshot, " +
                                                std::to_string(vcpus.size()) + " were made");
    std::optional<uint64_t> first;
    for (size_t index = 0; index < vcpus.size(); index++) {
        std::optional<uint64_t> offset;
        if (first)
            offset = *first + tsc_adjust(states[index]) - tsc_adjust(states[0]);
        auto loaded = vcpus[index].load(states[index], offset);
        if (!loaded)
            return std::unexpected(
                std::move(loaded).error().within("vCPU " + std::to_string(index)));
        if (index == 0)
            first = vcpus[0].loaded_tsc_offset();
    }
    return {};
}

VcpuTime time_of(const VcpuState& state) {
    return {msr_or_0(state, kMsrTsc), msr_or_0(state, kMsrTscDeadline)};
}

Status rewind_vcpus(std::span<Vcpu> vcpus, std::span<const VcpuTime> times) {
    assert(vcpus.size() == times.size());
    uint64_t waited = 0;
    if (auto offset = vcpus[0].loaded_tsc_offset()) {
        auto host = TRY(vcpus[0].host_tsc());
        waited = host.value_or(0) + *offset - times[0].tsc;
    }
    for (size_t index = 0; index < vcpus.size(); index++) {
        if (auto offset = vcpus[index].loaded_tsc_offset())
            TRY(vcpus[index].set_tsc_offset(*offset - waited));
        // KVM has counted down to a moment that is now further away, or past it.
        if (times[index].tsc_deadline != 0)
            TRY(vcpus[index].set_msrs({{kMsrTscDeadline, 0, times[index].tsc_deadline}}));
    }
    return {};
}

}  // namespace spore
