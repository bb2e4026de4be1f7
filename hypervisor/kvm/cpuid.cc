#include "hypervisor/kvm/cpuid.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace spore {

namespace {

enum Register { kEax, kEbx, kEcx, kEdx };

uint32_t& reg(kvm_cpuid_entry2& entry, Register which) {
    switch (which) {
        case kEax:
            return entry.eax;
        case kEbx:
            return entry.ebx;
        case kEcx:
            return entry.ecx;
        default:
            return entry.edx;
    }
}

constexpr uint32_t bit(unsigned number) {
    return 1u << number;
}

// A register that holds feature bits, and the names of those that people know.
struct FeatureWord {
    uint32_t function;
    uint32_t index;
    Register which;
    uint32_t baseline;  // what the template "baseline" keeps
    const char* names[32];
};

// Intel SDM 3A, CPUID; AMD APM 3, appendix E.
constexpr FeatureWord kFeatureWords[] = {
    {1,
     0,
     kEcx,
     bit(0) | bit(1) | bit(9) | bit(13) | bit(19) | bit(20) | bit(21) | bit(23) | bit(24) |
         bit(25) | bit(26) | bit(27) | bit(30) | bit(31),
     {"sse3",   "pclmulqdq", "",      "monitor", "",
      "vmx",    "",          "",      "",        "ssse3",
      "",       "",          "fma",   "cx16",    "",
      "",       "",          "pcid",  "",        "sse4_1",
      "sse4_2", "x2apic",    "movbe", "popcnt",  "tsc_deadline",
      "aes",    "xsave",     "",      "avx",     "f16c",
      "rdrand", ""}},
    {1, 0, kEdx, ~0u, {"fpu",  "vme",   "de",   "pse",     "tsc",  "msr", "pae", "mce",
                       "cx8",  "apic",  "",     "sep",     "mtrr", "pge", "mca", "cmov",
                       "pat",  "pse36", "",     "clflush", "",     "",    "",    "mmx",
                       "fxsr", "sse",   "sse2", "",        "htt",  "",    "",    ""}},
    {7,
     0,
     kEbx,
     bit(0) | bit(7) | bit(9) | bit(20),
     {"fsgsbase",   "tsc_adjust", "",           "bmi1",     "hle",    "avx2",     "",
      "smep",       "bmi2",       "erms",       "invpcid",  "rtm",    "",         "",
      "mpx",        "",           "avx512f",    "avx512dq", "rdseed", "adx",      "smap",
      "avx512ifma", "",           "clflushopt", "clwb",     "",       "avx512pf", "avx512er",
      "avx512cd",   "sha",        "avx512bw",   "avx512vl"}},
    {7,
     0,
     kEcx,
     0,
     {"",
      "avx512vbmi",
      "umip",
      "pku",
      "",
      "",
      "avx512vbmi2",
      "",
      "gfni",
      "vaes",
      "vpclmulqdq",
      "avx512vnni",
      "avx512bitalg",
      "",
      "avx512_vpopcntdq",
      "",
      "la57",
      "",
      "",
      "",
      "",
      "",
      "rdpid"}},
    {7, 0, kEdx, 0, {}},
    {0xd, 0, kEax, 3, {"x87 state", "sse state", "avx state"}},
    {0xd, 1, kEax, bit(0), {"xsaveopt", "xsavec", "xgetbv1", "xsaves"}},
    {0x80000001, 0, kEcx, bit(0), {"lahf_lm", "", "svm", "", "", "abm", "sse4a"}},
    {0x80000001,
     0,
     kEdx,
     bit(11) | bit(20) | bit(29) | 0x0183f3ff,
     {"", "", "", "", "", "",   "", "", "", "", "",         "syscall", "",       "", "",
      "", "", "", "", "", "nx", "", "", "", "", "fxsr_opt", "pdpe1gb", "rdtscp", "", "lm"}},
};

kvm_cpuid_entry2* find(CpuidEntries& entries, uint32_t function, uint32_t index) {
    for (kvm_cpuid_entry2& entry : entries) {
        bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
        if (entry.function == function && (!indexed || entry.index == index))
            return &entry;
    }
    return nullptr;
}

uint32_t feature_bits(const CpuidEntries& entries, const FeatureWord& word) {
    auto* entry = find(const_cast<CpuidEntries&>(entries), word.function, word.index);
    return entry == nullptr ? 0 : reg(*entry, word.which);
}

// Cores of one package, one thread each: what leaves 0xB and 0x1F tell (SDM 3A, "CPUID—Extended
// Topology Enumeration Leaf").
void add_topology(CpuidEntries& entries, uint32_t apic_id, uint32_t count) {
    std::erase_if(entries, [](const kvm_cpuid_entry2& entry) {
        return entry.function == 0xb || entry.function == 0x1f;
    });
    auto* leaf0 = find(entries, 0, 0);
    if (leaf0 == nullptr || leaf0->eax < 0xb)
        return;
    if (leaf0->eax >= 0x1f)
        leaf0->eax = 0x1e;
    uint32_t shift = static_cast<uint32_t>(std::bit_width(count - 1));
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
    level(0, 0, 1, 1);          // threads of a core
    level(1, shift, count, 2);  // cores of the package
    level(2, 0, 0, 0);
}

void set_identity(CpuidEntries& entries, uint32_t apic_id, uint32_t count) {
    for (kvm_cpuid_entry2& entry : entries) {
        switch (entry.function) {
            case 1:
                entry.ebx = (entry.ebx & 0xffff) | apic_id << 24 | count << 16;
                entry.ecx |= bit(31) | bit(24);   // hypervisor, TSC-deadline timer
                entry.ecx &= ~(bit(3) | bit(5));  // MONITOR, VMX
                entry.edx = count > 1 ? entry.edx | bit(28) : entry.edx & ~bit(28);  // HTT
                break;
            case 4:  // cores of the package; each cache a core's own
                if ((entry.eax & 0x1f) != 0)
                    entry.eax = (entry.eax & 0x3fff) | (count - 1) << 26;
                break;
            case 6:  // power management: turbo and the like are the host's
                entry.eax &= bit(2);
                entry.ecx = 0;
                break;
            case 0xa:  // performance counters: not offered
                entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
                break;
            case 0x80000001:
                entry.ecx &= ~bit(2);  // SVM
                break;
            case 0x80000008:
                entry.ecx = count - 1;
                break;
            case 0x8000000a:  // SVM's own leaf
                entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
                break;
            case 0x8000001e:
                entry.eax = apic_id;
                entry.ebx = apic_id & 0xff;  // one thread a core
                entry.ecx = 0;
                break;
            default:
                break;
        }
    }
    add_topology(entries, apic_id, count);
}

// Leaf 0xD: states that are not offered have no sub-leaf, and the sizes are those of the ones that
// are. Linux compares them with its own sums and complains (SDM 1, §13.2).
void fit_xsave(CpuidEntries& entries) {
    auto* main = find(entries, 0xd, 0);
    if (main == nullptr)
        return;
    auto* more = find(entries, 0xd, 1);
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
    main = find(entries, 0xd, 0);
    main->ecx = size;
    main->ebx = 512 + 64;  // for XCR0 as it is at reset; KVM follows the guest's XCR0
}

}  // namespace

Status check_cpu_template(std::string_view name) {
    if (name == "host" || name == "baseline")
        return {};
    return fail(Code::invalid_argument,
                "cpu-template '" + std::string(name) + "': must be host or baseline");
}

Result<CpuidEntries> make_cpuid(const CpuidEntries& supported, std::string_view cpu_template,
                                uint32_t index, uint32_t count) {
    TRY(check_cpu_template(cpu_template));
    CpuidEntries entries = supported;
    set_identity(entries, index, count);
    if (cpu_template == "baseline") {
        for (const FeatureWord& word : kFeatureWords) {
            if (auto* entry = find(entries, word.function, word.index))
                reg(*entry, word.which) &= word.baseline;
        }
        if (auto* xsave = find(entries, 0xd, 1))
            xsave->ecx = xsave->edx = 0;
    }
    fit_xsave(entries);
    return entries;
}

Status check_cpuid_runs(const CpuidEntries& guest, const CpuidEntries& supported) {
    // Bits that we set ourselves, whatever KVM lists.
    constexpr uint32_t kOurs = bit(31) | bit(24) | bit(27);  // leaf 1 ECX; OSXSAVE follows CR4
    for (const FeatureWord& word : kFeatureWords) {
        uint32_t missing = feature_bits(guest, word) & ~feature_bits(supported, word);
        if (word.function == 1 && word.which == kEcx)
            missing &= ~kOurs;
        if (word.function == 1 && word.which == kEdx)
            missing &= ~bit(28);
        if (missing == 0)
            continue;
        int number = std::countr_zero(missing);
        const char* name = word.names[number];
        char text[128];
        std::snprintf(text, sizeof(text), "leaf 0x%x.%u %s bit %d", word.function, word.index,
                      word.which == kEax   ? "EAX"
                      : word.which == kEbx ? "EBX"
                      : word.which == kEcx ? "ECX"
                                           : "EDX",
                      number);
        std::string feature = name != nullptr && *name != '\0' ? name : text;
        return fail(Code::version_mismatch,
                    "CPU feature " + feature + ": is in the snapshot, and missing on this host");
    }
    return {};
}

std::string cpu_vendor(const CpuidEntries& entries) {
    auto* leaf = find(const_cast<CpuidEntries&>(entries), 0, 0);
    if (leaf == nullptr)
        return "";
    char text[12];
    std::memcpy(text, &leaf->ebx, 4);
    std::memcpy(text + 4, &leaf->edx, 4);
    std::memcpy(text + 8, &leaf->ecx, 4);
    return {text, sizeof(text)};
}

}  // namespace spore
