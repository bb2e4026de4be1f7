#include "hypervisor/kvm/cpuid.h"

#include <gtest/gtest.h>
#include <linux/kvm_para.h>

#include "hypervisor/kvm/cpu_features.h"

namespace spore {
namespace {

kvm_cpuid_entry2 leaf(uint32_t function, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
    kvm_cpuid_entry2 entry = {};
    entry.function = function;
    entry.eax = eax;
    entry.ebx = ebx;
    entry.ecx = ecx;
    entry.edx = edx;
    return entry;
}

kvm_cpuid_entry2 leaf(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx,
                      uint32_t edx) {
    auto entry = leaf(function, eax, ebx, ecx, edx);
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    return entry;
}

constexpr uint32_t kAvx2 = 1 << 5, kAvx512f = 1 << 16, kPku = 1 << 3, kOspke = 1 << 4;

// An AMD host with AVX-512, PKU, SVM and performance counters, much as KVM tells of it.
CpuidEntries amd_host() {
    return {
        leaf(0, 0x20, 0x68747541, 0x444d4163, 0x69746e65),
        leaf(1, 0xa10f11, 0x07110800, 0xfffa3203 | 1 << 3 | 1 << 5, 0x178bfbff),
        leaf(7, 0, 1, kAvx2 | kAvx512f | 1 << 20, kPku | kOspke, 0),
        leaf(0xa, 0x07300402, 0, 0, 0x603),
        leaf(0xb, 0, 0, 0, 0, 7),
        leaf(0xd, 0, 0x2e7, 0x988, 0x988, 0),
        leaf(0xd, 1, 0xf, 0x988, 0x1800, 0),
        leaf(0xd, 2, 0x100, 0x240, 0, 0),
        leaf(0xd, 5, 0x40, 0x340, 0, 0),
        leaf(0xd, 6, 0x200, 0x380, 0, 0),
        leaf(0xd, 7, 0x400, 0x580, 0, 0),
        leaf(0xd, 9, 8, 0x980, 0, 0),
        leaf(0xd, 11, 0x10, 0, 1, 0),
        leaf(0xd, 12, 0x18, 0, 1, 0),
        leaf(0x1f, 0, 0, 0, 0, 0),
        leaf(KVM_CPUID_SIGNATURE, KVM_CPUID_FEATURES, 0x4b4d564b, 0x564b4d56, 0x4d),
        leaf(KVM_CPUID_FEATURES, 0x01037efb, 0, 0, 0),
        leaf(0x80000001, 0xa10f11, 0, 0x75c237ff, 0x2fd3fbff),
        leaf(0x80000007, 0, 0, 0, 0x100),
        leaf(0x80000008, 0x3030, 0x1000, 0, 0),
        leaf(0x8000000a, 1, 8, 0, 0x1bcff),
        leaf(0x8000001d, 0, 0x121, 0x1c0003f, 0x3f, 0),
        leaf(0x8000001d, 3, 0x4163, 0x3c0003f, 0x7fff, 1),
        leaf(0x8000001e, 9, 0x104, 1, 0),
    };
}

CpuidEntries made(const CpuidEntries& host, uint32_t index = 0, uint32_t count = 1,
                  std::string_view name = "host") {
    auto result = make_cpuid(host, name, index, count);
    EXPECT_TRUE(result) << result.error().message;
    return result.value_or(CpuidEntries());
}

kvm_cpuid_entry2 at(CpuidEntries entries, uint32_t function, uint32_t index = 0) {
    auto* entry = find_cpuid(entries, function, index);
    EXPECT_NE(entry, nullptr) << std::hex << function << "." << index;
    return entry == nullptr ? kvm_cpuid_entry2{} : *entry;
}

bool has_leaf(CpuidEntries entries, uint32_t function, uint32_t index = 0) {
    return find_cpuid(entries, function, index) != nullptr;
}

TEST(Cpuid, NumbersEachVcpu) {
    for (uint32_t index : {0u, 2u}) {
        auto entries = made(amd_host(), index, 3);
        EXPECT_EQ(at(entries, 1).ebx, index << 24 | 4u << 16 | 0x0800);
        EXPECT_EQ(at(entries, 0xb, 0).edx, index);
        EXPECT_EQ(at(entries, 0xb, 1).edx, index);
        EXPECT_EQ(at(entries, 0x8000001e).eax, index);
    }
}

TEST(Cpuid, TellsOfCoresWithOneThreadEach) {
    auto entries = made(amd_host(), 1, 3);
    EXPECT_EQ(at(entries, 0xb, 0).eax, 0u);
    EXPECT_EQ(at(entries, 0xb, 0).ebx, 1u);
    EXPECT_EQ(at(entries, 0xb, 0).ecx, 0x100u);
    EXPECT_EQ(at(entries, 0xb, 1).eax, 2u) << "bits of the APIC ID for three cores";
    EXPECT_EQ(at(entries, 0xb, 1).ebx, 3u);
    EXPECT_EQ(at(entries, 0xb, 1).ecx, 0x201u);
    EXPECT_EQ(at(entries, 0xb, 2).ecx >> 8, 0u) << "no level above";
    EXPECT_EQ(at(entries, 0x80000008).ecx, 0x2002u);
    EXPECT_EQ(at(entries, 0x8000001e).ebx >> 8, 0u) << "one thread a core";
    EXPECT_NE(at(entries, 1).edx & 1 << 28, 0u);
    EXPECT_EQ(at(made(amd_host()), 1).edx & 1 << 28, 0u) << "HTT of a single vCPU";
    EXPECT_FALSE(has_leaf(entries, 0x1f));
    EXPECT_LT(at(entries, 0).eax, 0x1fu) << "a guest would ask leaf 0x1F rather than 0xB";
}

TEST(Cpuid, SharesOnlyTheLastCache) {
    auto entries = made(amd_host(), 0, 6);
    EXPECT_EQ(at(entries, 0x8000001d, 0).eax >> 14 & 0xfff, 0u);
    EXPECT_EQ(at(entries, 0x8000001d, 3).eax >> 14 & 0xfff, 7u);
    CpuidEntries intel = {leaf(0, 0x16, 0x756e6547, 0x6c65746e, 0x49656e69),
                          leaf(4, 0, 0x7c004121, 0x1c0003f, 0x3f, 0),
                          leaf(4, 3, 0x7c0fc163, 0x3c0003f, 0x7fff, 0), leaf(4, 4, 0, 0, 0, 0)};
    entries = made(intel, 0, 4);
    EXPECT_EQ(at(entries, 4, 0).eax, 3u << 26 | 0x121);
    EXPECT_EQ(at(entries, 4, 3).eax, 3u << 26 | 3u << 14 | 0x163);
    EXPECT_EQ(at(entries, 4, 4).eax, 0u);
}

TEST(Cpuid, OffersNoVirtualizationMonitorOrCounters) {
    auto entries = made(amd_host());
    EXPECT_EQ(at(entries, 1).ecx & (1 << 3 | 1 << 5), 0u) << "MONITOR, VMX";
    EXPECT_EQ(at(entries, 0x80000001).ecx & (1 << 2 | 1 << 29), 0u) << "SVM, MWAITX";
    EXPECT_EQ(at(entries, 0x8000000a).edx, 0u);
    EXPECT_EQ(at(entries, 0xa).eax, 0u);
}

TEST(Cpuid, SaysThatThereIsAHypervisorWithATimer) {
    auto host = amd_host();
    find_cpuid(host, 1)->ecx = 0;
    EXPECT_EQ(at(made(host), 1).ecx, 1u << 31 | 1u << 24 | 1u << 21);
}

TEST(Cpuid, KeepsKvmsLeavesButForWhatNeedsTheVmm) {
    auto entries = made(amd_host());
    EXPECT_EQ(at(entries, KVM_CPUID_SIGNATURE).ebx, 0x4b4d564bu);
    uint32_t features = at(entries, KVM_CPUID_FEATURES).eax;
    EXPECT_NE(features & 1 << KVM_FEATURE_CLOCKSOURCE2, 0u);
    EXPECT_EQ(features & (1 << KVM_FEATURE_HC_MAP_GPA_RANGE | 1 << KVM_FEATURE_MIGRATION_CONTROL),
              0u);
}

TEST(Cpuid, FitsTheXsaveSizesToTheStatesOffered) {
    auto all = made(amd_host());
    EXPECT_EQ(at(all, 0xd).eax, 0x2e7u);
    EXPECT_EQ(at(all, 0xd).ecx, 0x988u);
    EXPECT_EQ(at(all, 0xd).ebx, 576u) << "for XCR0 as it is at reset";
    EXPECT_TRUE(has_leaf(all, 0xd, 11)) << "a supervisor state";

    auto host = amd_host();
    find_cpuid(host, 7)->ebx &= ~kAvx512f;
    find_cpuid(host, 7)->ecx = 0;
    auto less = made(host);
    EXPECT_EQ(at(less, 0xd).eax, 7u);
    EXPECT_EQ(at(less, 0xd).ecx, 0x340u);
    EXPECT_TRUE(has_leaf(less, 0xd, 2));
    for (uint32_t index : {5u, 6u, 7u, 9u})
        EXPECT_FALSE(has_leaf(less, 0xd, index)) << index;
    EXPECT_EQ(cpuid_xcr0(less), 7u);
}

TEST(Cpuid, OffersNoXsaveStateWithoutXsave) {
    auto host = amd_host();  // the project's own machines are like that
    find_cpuid(host, 1)->ecx &= ~(1u << 26);
    auto entries = made(host);
    EXPECT_EQ(at(entries, 0xd).eax, 0u);
    EXPECT_EQ(at(entries, 0xd).ecx, 0u);
    EXPECT_EQ(at(entries, 0xd, 1).eax, 0u);
    EXPECT_FALSE(has_leaf(entries, 0xd, 2));
    EXPECT_EQ(cpuid_xcr0(entries), 1u);
}

TEST(Cpuid, MasksByTemplate) {
    auto entries = made(amd_host(), 0, 2, "baseline");
    EXPECT_EQ(at(entries, 7).ebx & (kAvx2 | kAvx512f), 0u);
    EXPECT_EQ(at(entries, 1).ecx & 1 << 28, 0u) << "AVX";
    EXPECT_NE(at(entries, 1).ecx & 1 << 20, 0u) << "SSE4.2";
    EXPECT_NE(at(entries, 1).ecx & 1u << 31, 0u) << "hypervisor";
    EXPECT_EQ(at(entries, 0xd).eax, 3u);
    EXPECT_EQ(at(entries, 0xd).ecx, 576u);
    EXPECT_NE(at(entries, 0x80000001).edx & 1 << 29, 0u) << "long mode";
    EXPECT_NE(at(entries, 0x80000001).edx & 1 << 20, 0u) << "NX";
    EXPECT_NE(at(entries, 0x80000001).edx & 1 << 11, 0u) << "SYSCALL";
    EXPECT_NE(at(entries, KVM_CPUID_FEATURES).eax & 1 << KVM_FEATURE_CLOCKSOURCE2, 0u);
}

TEST(Cpuid, RefusesATemplateThatIsNone) {
    auto result = make_cpuid(amd_host(), "t2", 0, 1);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::invalid_argument);
    EXPECT_NE(result.error().message.find("'t2'"), std::string::npos);
}

TEST(Cpuid, RunsWhereItWasMade) {
    for (auto name : {"host", "baseline"}) {
        auto status = check_cpuid_runs(made(amd_host(), 3, 4, name), amd_host());
        EXPECT_TRUE(status) << status.error().message;
    }
}

TEST(Cpuid, IgnoresWhatFollowsTheGuestsControlRegisters) {
    auto guest = made(amd_host());
    find_cpuid(guest, 1)->ecx |= 1 << 27;  // OSXSAVE
    find_cpuid(guest, 7)->ecx |= kOspke;
    auto host = amd_host();
    find_cpuid(host, 1)->ecx &= ~(1 << 27);
    find_cpuid(host, 7)->ecx &= ~kOspke;
    EXPECT_TRUE(check_cpuid_runs(guest, host));
}

void expect_mismatch(const CpuidEntries& host, std::string_view word) {
    auto status = check_cpuid_runs(made(amd_host()), host);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::version_mismatch);
    EXPECT_NE(status.error().message.find(word), std::string::npos) << status.error().message;
}

TEST(Cpuid, NamesTheFeatureThatIsMissing) {
    auto host = amd_host();
    find_cpuid(host, 7)->ebx &= ~kAvx2;
    expect_mismatch(host, "CPU feature avx2: is in the snapshot, missing here");
    host = amd_host();
    find_cpuid(host, 1)->ecx &= ~(1 << 30);
    expect_mismatch(host, "rdrand");
    host = amd_host();
    find_cpuid(host, KVM_CPUID_FEATURES)->eax &= ~(1 << KVM_FEATURE_STEAL_TIME);
    expect_mismatch(host, "kvm_steal_time");
    host = amd_host();
    std::erase_if(host, [](auto& entry) { return entry.function == 7; });
    expect_mismatch(host, "avx2");
}

TEST(Cpuid, NamesAnotherVendorLayoutAndAddressWidth) {
    auto host = amd_host();
    *find_cpuid(host, 0) = leaf(0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
    expect_mismatch(host, "AuthenticAMD, this host is GenuineIntel");
    host = amd_host();
    find_cpuid(host, 0xd, 9)->ebx = 0xa80;
    expect_mismatch(host, "XSAVE state 9");
    host = amd_host();
    find_cpuid(host, 0x80000008)->eax = 0x302e;
    expect_mismatch(host, "physical address bits: 48 in the snapshot, 46 here");
}

}  // namespace
}  // namespace spore
