// Which CPU features are handed on, and whether a host has those that a snapshot was made with.

#include <bit>

#include "hypervisor/kvm/cpu_features.h"
#include "hypervisor/kvm/cpuid.h"

namespace spore {

namespace {

uint32_t feature_bits(const CpuidEntries& entries, const FeatureWord& word) {
    auto* entry = find_cpuid(const_cast<CpuidEntries&>(entries), word.function, word.index);
    return entry == nullptr ? 0 : cpuid_register(*entry, word.which);
}

std::unexpected<Error> mismatch(const std::string& what) {
    return fail(Code::version_mismatch, what);
}

// Where each state lies in the (non-compacted) XSAVE area is the processor's choice.
Status check_xsave_layout(const CpuidEntries& guest, const CpuidEntries& supported) {
    for (const kvm_cpuid_entry2& entry : guest) {
        if (entry.function != 0xd || entry.index < 2)
            continue;
        auto* here = find_cpuid(supported, 0xd, entry.index);
        if (here == nullptr || here->eax != entry.eax || here->ebx != entry.ebx)
            return mismatch("XSAVE state " + std::to_string(entry.index) +
                            ": the snapshot has it at another place than this host's CPU");
    }
    return {};
}

// A guest that believes in more physical address bits may set ones that this host reserves.
Status check_address_bits(const CpuidEntries& guest, const CpuidEntries& supported) {
    auto* there = find_cpuid(guest, 0x80000008);
    auto* here = find_cpuid(supported, 0x80000008);
    if (there == nullptr || (here != nullptr && (there->eax & 0xff) <= (here->eax & 0xff)))
        return {};
    return mismatch("physical address bits: " + std::to_string(there->eax & 0xff) +
                    " in the snapshot, " + std::to_string(here == nullptr ? 0 : here->eax & 0xff) +
                    " here");
}

}  // namespace

Status check_cpu_template(std::string_view name) {
    if (name == "host" || name == "baseline")
        return {};
    return fail(Code::invalid_argument,
                "cpu-template '" + std::string(name) + "': must be host or baseline");
}

Status check_cpuid_runs(const CpuidEntries& guest, const CpuidEntries& supported) {
    if (cpu_vendor(guest) != cpu_vendor(supported))
        return mismatch("CPU vendor: the snapshot is from " + cpu_vendor(guest) +
                        ", this host is " + cpu_vendor(supported));
    for (const FeatureWord& word : feature_words()) {
        uint32_t missing =
            feature_bits(guest, word) & ~feature_bits(supported, word) & ~word.not_the_hosts;
        if (missing != 0)
            return mismatch("CPU feature " +
                            feature_name(word, static_cast<uint32_t>(std::countr_zero(missing))) +
                            ": is in the snapshot, missing here");
    }
    TRY(check_address_bits(guest, supported));
    return check_xsave_layout(guest, supported);
}

}  // namespace spore
