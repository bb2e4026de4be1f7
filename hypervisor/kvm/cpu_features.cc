#include "hypervisor/kvm/cpu_features.h"

#include <linux/kvm_para.h>

#include <cstdio>

namespace spore {

namespace {

constexpr uint32_t bits(std::initializer_list<unsigned> numbers) {
    uint32_t result = 0;
    for (unsigned number : numbers)
        result |= 1u << number;
    return result;
}

using enum CpuidRegister;

// Intel SDM 2A, CPUID; AMD APM 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.
constexpr FeatureWord kFeatureWords[] = {
    {1,
     0,
     ecx,
     bits({0, 1, 9, 13, 19, 20, 21, 23, 24, 25, 26, 27, 30, 31}),
     bits({24, 27, 31}),  // ours: TSC-deadline and hypervisor; OSXSAVE follows CR4
     {"sse3",    "pclmulqdq", "dtes64",  "monitor", "ds_cpl",
      "vmx",     "smx",       "est",     "tm2",     "ssse3",
      "cnxt_id", "sdbg",      "fma",     "cx16",    "xtpr",
      "pdcm",    "",          "pcid",    "dca",     "sse4_1",
      "sse4_2",  "x2apic",    "movbe",   "popcnt",  "tsc_deadline_timer",
      "aes",     "xsave",     "osxsave", "avx",     "f16c",
      "rdrand",  "hypervisor"}},
    {1,
     0,
     edx,
     ~0u,
     bits({28}),  // ours: several vCPUs
     {"fpu",  "vme",  "de",   "pse", "tsc",  "msr", "pae",   "mce", "cx8",     "apic", "",
      "sep",  "mtrr", "pge",  "mca", "cmov", "pat", "pse36", "pn",  "clflush", "",     "dts",
      "acpi", "mmx",  "fxsr", "sse", "sse2", "ss",  "ht",    "tm",  "ia64",    "pbe"}},
    {7, 0, ebx, bits({0, 1, 7, 9, 20}), 0, {"fsgsbase",
                                            "tsc_adjust",
                                            "sgx",
                                            "bmi1",
                                            "hle",
                                            "avx2",
                                            "fdp_excptn_only",
                                            "smep",
                                            "bmi2",
                                            "erms",
                                            "invpcid",
                                            "rtm",
                                            "cqm",
                                            "zero_fcs_fds",
                                            "mpx",
                                            "rdt_a",
                                            "avx512f",
                                            "avx512dq",
                                            "rdseed",
                                            "adx",
                                            "smap",
                                            "avx512ifma",
                                            "",
                                            "clflushopt",
                                            "clwb",
                                            "intel_pt",
                                            "avx512pf",
                                            "avx512er",
                                            "avx512cd",
                                            "sha_ni",
                                            "avx512bw",
                                            "avx512vl"}},
    {7,
     0,
     ecx,
     0,
     bits({4}),  // OSPKE follows CR4
     {"prefetchwt1",
      "avx512vbmi",
      "umip",
      "pku",
      "ospke",
      "waitpkg",
      "avx512_vbmi2",
      "shstk",
      "gfni",
      "vaes",
      "vpclmulqdq",
      "avx512_vnni",
      "avx512_bitalg",
      "tme",
      "avx512_vpopcntdq",
      "",
      "la57",
      "",
      "",
      "",
      "",
      "",
      "rdpid",
      "",
      "bus_lock_detect",
      "cldemote",
      "",
      "movdiri",
      "movdir64b",
      "enqcmd",
      "sgx_lc",
      "pks"}},
    {7,
     0,
     edx,
     bits({10, 26, 27, 28, 29, 31}),
     0,
     {"",
      "",
      "avx512_4vnniw",
      "avx512_4fmaps",
      "fsrm",
      "",
      "",
      "",
      "avx512_vp2intersect",
      "",
      "md_clear",
      "",
      "",
      "",
      "serialize",
      "hybrid",
      "tsxldtrk",
      "",
      "pconfig",
      "arch_lbr",
      "ibt",
      "",
      "amx_bf16",
      "avx512_fp16",
      "amx_tile",
      "amx_int8",
      "spec_ctrl",
      "intel_stibp",
      "flush_l1d",
      "arch_capabilities",
      "core_capabilities",
      "ssbd"}},
    {7, 1, eax, 0, 0, {"", "", "", "", "avx_vnni", "avx512_bf16"}},
    {7, 1, edx, 0, 0, {}},
    {0xd,
     0,
     eax,
     3,
     0,
     {"x87 state", "SSE state", "AVX state", "MPX bounds", "MPX status", "AVX-512 opmask",
      "AVX-512 ZMM_Hi256", "AVX-512 Hi16_ZMM", "", "PKRU"}},
    {0xd, 0, edx, 0, 0, {}},
    {0xd, 1, eax, 0, 0, {"xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd"}},
    {0xd, 1, ecx, 0, 0, {}},
    // The two CET and the other supervisor states come with leaf 0xd, 1.
    {0x80000001,
     0,
     ecx,
     bits({0, 1, 4, 8, 22}),
     bits({1}),  // CMP_LEGACY: several vCPUs
     {"lahf_lm",
      "cmp_legacy",
      "svm",
      "extapic",
      "cr8_legacy",
      "abm",
      "sse4a",
      "misalignsse",
      "3dnowprefetch",
      "osvw",
      "ibs",
      "xop",
      "skinit",
      "wdt",
      "",
      "lwp",
      "fma4",
      "tce",
      "",
      "nodeid_msr",
      "",
      "tbm",
      "topoext",
      "perfctr_core",
      "perfctr_nb",
      "",
      "bpext",
      "ptsc",
      "perfctr_llc",
      "mwaitx"}},
    {0x80000001,
     0,
     edx,
     0x0183f3ff | bits({11, 17, 20, 27, 29}),
     0,
     {"fpu",  "vme",      "de",      "pse",     "tsc",  "msr", "pae",      "mce",
      "cx8",  "apic",     "",        "syscall", "mtrr", "pge", "mca",      "cmov",
      "pat",  "pse36",    "",        "mp",      "nx",   "",    "mmxext",   "mmx",
      "fxsr", "fxsr_opt", "pdpe1gb", "rdtscp",  "",     "lm",  "3dnowext", "3dnow"}},
    {0x80000007, 0, edx, bits({8}), 0, {"", "", "", "", "", "", "", "", "invariant TSC"}},
    {0x80000008,
     0,
     ebx,
     bits({12, 14, 15, 24, 25, 26}),
     0,
     {"clzero",   "irperf",    "xsaveerptr", "",          "rdpru",   "",
      "",         "",          "",           "wbnoinvd",  "",        "",
      "amd_ibpb", "",          "amd_ibrs",   "amd_stibp", "",        "amd_stibp_always_on",
      "",         "",          "",           "",          "",        "amd_ppin",
      "amd_ssbd", "virt_ssbd", "amd_ssb_no", "",          "amd_psfd"}},
    {0x80000021, 0, eax, bits({2}), 0, {"no_nested_data_bp", "", "lfence_rdtsc"}},
    {KVM_CPUID_FEATURES,
     0,
     eax,
     ~0u,
     0,
     {"kvmclock", "kvm_nopiodelay", "", "kvmclock2", "kvm_asyncpf", "kvm_steal_time", "kvm_pv_eoi",
      "kvm_pv_unhalt", "", "kvm_pv_tlb_flush", "kvm_asyncpf_vmexit", "kvm_pv_ipi",
      "kvm_poll_control", "kvm_pv_sched_yield", "kvm_asyncpf_int"}},
};

}  // namespace

std::span<const FeatureWord> feature_words() {
    return kFeatureWords;
}

std::string feature_name(const FeatureWord& word, uint32_t bit) {
    if (!word.names[bit].empty())
        return std::string(word.names[bit]);
    constexpr const char* kRegisters[] = {"EAX", "EBX", "ECX", "EDX"};
    char text[64];
    std::snprintf(text, sizeof(text), "leaf 0x%x.%u %s bit %u", word.function, word.index,
                  kRegisters[static_cast<size_t>(word.which)], bit);
    return text;
}

uint32_t& cpuid_register(kvm_cpuid_entry2& entry, CpuidRegister which) {
    switch (which) {
        case eax:
            return entry.eax;
        case ebx:
            return entry.ebx;
        case ecx:
            return entry.ecx;
        case edx:
            break;
    }
    return entry.edx;
}

kvm_cpuid_entry2* find_cpuid(std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                             uint32_t index) {
    for (kvm_cpuid_entry2& entry : entries) {
        bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
        if (entry.function == function && (indexed ? entry.index == index : index == 0))
            return &entry;
    }
    return nullptr;
}

const kvm_cpuid_entry2* find_cpuid(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                                   uint32_t index) {
    return find_cpuid(const_cast<std::vector<kvm_cpuid_entry2>&>(entries), function, index);
}

}  // namespace spore
