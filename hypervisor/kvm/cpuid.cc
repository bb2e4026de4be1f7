#include "hypervisor/kvm/cpuid.h"

#include <linux/kvm_para.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdio>
#include <cstring>

#include "hypervisor/kvm/cpu_features.h"

namespace spore {

namespace {

constexpr uint32_t bit(unsigned number) {
    return 1u << number;
}

// What we answer for ourselves, or what needs something that this machine has not.
constexpr uint32_t kLeaf1EcxSet = bit(31) | bit(24) | bit(21);  // hypervisor, TSC-deadline, x2APIC
constexpr uint32_t kLeaf1EcxClear = bit(27) | bit(15) | bit(5) | bit(3);  // OSXSAVE, PDCM, VMX,
                                                                          // MONITOR
constexpr uint32_t kLeaf7EcxClear = bit(5);  // WAITPKG: waits that the host does not see
constexpr uint32_t kExtendedEcxClear =
    bit(29) | bit(28) | bit(24) | bit(23) | bit(10) | bit(2);  // MWAITX, counters, IBS, SVM
constexpr uint32_t kParavirtualClear =
    bit(KVM_FEATURE_HC_MAP_GPA_RANGE) | bit(KVM_FEATURE_MIGRATION_CONTROL) |
    bit(KVM_FEATURE_MSI_EXT_DEST_ID);  // hypercalls to the VMM, and more than 255 APICs

void clear(kvm_cpuid_entry2& entry) {
    entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
}

// Each core has its caches but the last level, which the package shares (SDM 2A, CPUID leaf 4; APM
// 3, leaf 0x8000001D: the same layout).
void set_cache_sharing(kvm_cpuid_entry2& entry, uint32_t count) {
    constexpr uint32_t kSharingMask = 0xfff << 14;
    uint32_t level = entry.eax >> 5 & 7;
    if ((entry.eax & 0x1f) == 0)
        return;
    uint32_t sharing = level >= 3 ? std::bit_ceil(count) - 1 : 0;
    entry.eax = (entry.eax & ~kSharingMask) | sharing << 14;
}

// Threads of a core and cores of the package (SDM 2A, CPUID leaf 0xB).
void add_topology(CpuidEntries& entries, uint32_t apic_id, uint32_t count) {
    std::erase_if(entries, [](const kvm_cpuid_entry2& entry) {
        return entry.function == 0xb || entry.function == 0x1f;
    });
    auto* leaf0 = find_cpuid(entries, 0);
    if (leaf0 == nullptr || leaf0->eax < 0xb)
        return;
    leaf0->eax = std::min(leaf0->eax, 0x1eu);  // leaf 0x1F would be asked instead of 0xB
    std::erase_if(entries, [](const kvm_cpuid_entry2& entry) {
        return entry.function > 0x1f && entry.function < KVM_CPUID_SIGNATURE;
    });
    auto level = [&](uint32_t index, uint32_t eax, uint32_t ebx, uint32_t type) {
        kvm_cpuid_entry2 entry = {};
        entry.function = 0xb;
        entry.index = index;
        entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        entry.eax = eax;
        entry.ebx = ebx;
        entry.ecx = index | type << 8;
        entry.edx = apic_id;
        entries.push_back(entry);
    };
    level(0, 0, 1, 1);
    level(1, static_cast<uint32_t>(std::bit_width(count - 1)), count, 2);
    level(2, 0, 0, 0);
}

void set_leaf(kvm_cpuid_entry2& entry, uint32_t apic_id, uint32_t count, bool amd) {
    bool several = count > 1;
    switch (entry.function) {
        case 1:
            entry.ebx = (entry.ebx & 0xffff) | apic_id << 24 | std::bit_ceil(count) << 16;
            entry.ecx = (entry.ecx | kLeaf1EcxSet) & ~kLeaf1EcxClear;
            entry.edx = several ? entry.edx | bit(28) : entry.edx & ~bit(28);  // HTT
            break;
        case 4:
            set_cache_sharing(entry, count);
            if ((entry.eax & 0x1f) != 0)
                entry.eax = (entry.eax & 0x03ff'ffff) | (std::bit_ceil(count) - 1) << 26;
            break;
        case 6:  // power management is the host's but for the APIC timer that never stops
            entry.eax &= bit(2);
            entry.ebx = entry.ecx = entry.edx = 0;
            break;
        case 7:
            if (entry.index == 0)
                entry.ecx &= ~kLeaf7EcxClear;
            break;
        case 5:           // MONITOR
        case 0xa:         // performance counters
        case 0x8000000a:  // SVM
        case 0x80000022:  // AMD's performance counters
            clear(entry);
            break;
        case KVM_CPUID_FEATURES:
            entry.eax &= ~kParavirtualClear;
            break;
        case 0x80000001:
            entry.ecx &= ~kExtendedEcxClear;
            if (amd)
                entry.ecx = several ? entry.ecx | bit(1) : entry.ecx & ~bit(1);  // CMP_LEGACY
            break;
        case 0x80000008:  // cores, and the APIC ID's bits that number them
            if (amd)
                entry.ecx = (count - 1) | static_cast<uint32_t>(std::bit_width(count - 1)) << 12;
            break;
        case 0x8000001d:
            set_cache_sharing(entry, count);
            break;
        case 0x8000001e:
            entry.eax = apic_id;
            entry.ebx = apic_id;  // the core's number; one thread a core
            entry.ecx = 0;        // one node
            break;
        default:
            break;
    }
}

void mask_by_template(CpuidEntries& entries, std::string_view cpu_template) {
    if (cpu_template != "baseline")
        return;
    for (const FeatureWord& word : feature_words()) {
        if (auto* entry = find_cpuid(entries, word.function, word.index))
            cpuid_register(*entry, word.which) &= word.baseline;
    }
}

// States of XCR0 that only make sense with a feature (SDM 1 §13.1).
uint64_t states_offered(const CpuidEntries& entries) {
    auto has = [&](uint32_t function, CpuidRegister which, unsigned number) {
        auto* entry = find_cpuid(const_cast<CpuidEntries&>(entries), function);
        return entry != nullptr && (cpuid_register(*entry, which) & bit(number)) != 0;
    };
    using enum CpuidRegister;
    if (!has(1, ecx, 26))  // XSAVE
        return 0;
    uint64_t states = ~uint64_t{0};
    auto needs = [&](bool offered, uint64_t mask) { states = offered ? states : states & ~mask; };
    needs(has(1, ecx, 28), bit(2));                    // AVX
    needs(has(7, ebx, 14), bit(3) | bit(4));           // MPX
    needs(has(7, ebx, 16), bit(5) | bit(6) | bit(7));  // AVX-512
    needs(has(7, ecx, 3), bit(9));                     // PKU
    needs(has(7, edx, 24), bit(17) | bit(18));         // AMX
    return states;
}

// Leaf 0xD follows what is offered: states without their feature are not there, those that are not
// there have no sub-leaf, and the sizes are those of the rest. Linux compares them with its own
// sums (SDM 1 §13.2). KVM makes EBX follow the guest's XCR0 and IA32_XSS.
void fit_xsave(CpuidEntries& entries) {
    auto* main = find_cpuid(entries, 0xd);
    if (main == nullptr)
        return;
    uint64_t offered = states_offered(entries);
    main->eax &= static_cast<uint32_t>(offered);
    main->edx &= static_cast<uint32_t>(offered >> 32);
    auto* more = find_cpuid(entries, 0xd, 1);
    if (more != nullptr && offered == 0)
        clear(*more);
    uint64_t user = main->eax | uint64_t{main->edx} << 32;
    uint64_t supervisor = more == nullptr ? 0 : more->ecx | uint64_t{more->edx} << 32;
    std::erase_if(entries, [&](const kvm_cpuid_entry2& entry) {
        return entry.function == 0xd && entry.index >= 2 &&
               (entry.index > 62 || ((user | supervisor) >> entry.index & 1) == 0);
    });
    uint32_t size = 512 + 64;  // the legacy area and the header
    for (const kvm_cpuid_entry2& entry : entries) {
        if (entry.function == 0xd && entry.index >= 2 && (user >> entry.index & 1) != 0)
            size = std::max(size, entry.ebx + entry.eax);
    }
    main = find_cpuid(entries, 0xd);
    main->ecx = user == 0 ? 0 : size;
    main->ebx = user == 0 ? 0 : 512 + 64;  // for XCR0 as it is at reset
}

}  // namespace

Result<CpuidEntries> make_cpuid(const CpuidEntries& supported, std::string_view cpu_template,
                                uint32_t index, uint32_t count) {
    TRY(check_cpu_template(cpu_template));
    assert(count > 0 && index < count);
    CpuidEntries entries = supported;
    bool amd = cpu_vendor(supported) != "GenuineIntel";
    mask_by_template(entries, cpu_template);
    for (kvm_cpuid_entry2& entry : entries)
        set_leaf(entry, index, count, amd);
    add_topology(entries, index, count);
    fit_xsave(entries);
    return entries;
}

std::string cpu_vendor(const CpuidEntries& entries) {
    auto* leaf = find_cpuid(entries, 0);
    if (leaf == nullptr)
        return "";
    char text[12];
    std::memcpy(text, &leaf->ebx, 4);
    std::memcpy(text + 4, &leaf->edx, 4);
    std::memcpy(text + 8, &leaf->ecx, 4);
    return {text, sizeof(text)};
}

uint64_t cpuid_xcr0(const CpuidEntries& guest) {
    auto* main = find_cpuid(guest, 0xd);
    uint64_t states = main == nullptr ? 0 : main->eax | uint64_t{main->edx} << 32;
    return states | 1;
}

}  // namespace spore
