#include "tests/kvm/support/state_compare.h"

#include <cstdio>
#include <cstring>
#include <map>

namespace spore {

namespace {

constexpr uint32_t kMsrTsc = 0x10;
constexpr size_t kTimerCurrentCount = 0x390;  // SDM 3A, "APIC Timer"

std::string hex(uint64_t value) {
    char text[32];
    std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

class Differences {
  public:
    // Names the first byte that differs.
    void bytes(const std::string& what, const void* before, const void* after, size_t size,
               size_t offset = 0) {
        auto* left = static_cast<const uint8_t*>(before);
        auto* right = static_cast<const uint8_t*>(after);
        for (size_t index = 0; index < size; index++) {
            if (left[index] == right[index])
                continue;
            found.push_back(what + " at " + hex(offset + index) + ": " + hex(left[index]) + ", " +
                            hex(right[index]));
            return;
        }
    }
    template <typename T>
    void value(const std::string& what, const T& before, const T& after) {
        bytes(what, &before, &after, sizeof(T));
    }

    std::vector<std::string> found;
};

std::map<uint32_t, uint64_t> by_index(const VcpuState& state) {
    std::map<uint32_t, uint64_t> result;
    for (const kvm_msr_entry& entry : state.msrs)
        result[entry.index] = entry.data;
    result.erase(kMsrTsc);
    return result;
}

}  // namespace

std::vector<std::string> state_differences(const VcpuState& before, const VcpuState& after) {
    Differences differences;
    differences.value("tsc_khz", before.tsc_khz, after.tsc_khz);
    differences.value("regs", before.regs, after.regs);
    differences.value("sregs", before.sregs, after.sregs);
    differences.value("xcrs", before.xcrs, after.xcrs);
    differences.value("debugregs", before.debugregs, after.debugregs);
    differences.value("mp_state", before.mp_state, after.mp_state);
    differences.value("events", before.events, after.events);
    differences.bytes("lapic", before.lapic.regs, after.lapic.regs, kTimerCurrentCount);
    constexpr size_t kBehind = kTimerCurrentCount + 4;
    differences.bytes("lapic", before.lapic.regs + kBehind, after.lapic.regs + kBehind,
                      sizeof(before.lapic.regs) - kBehind, kBehind);
    if (before.xsave.size() != after.xsave.size() || before.cpuid.size() != after.cpuid.size()) {
        differences.found.push_back("sizes of xsave or cpuid");
        return differences.found;
    }
    differences.bytes("xsave", before.xsave.data(), after.xsave.data(), before.xsave.size());
    differences.bytes("cpuid", before.cpuid.data(), after.cpuid.data(),
                      before.cpuid.size() * sizeof(kvm_cpuid_entry2));
    auto left = by_index(before), right = by_index(after);
    for (auto [index, value] : left) {
        if (!right.contains(index))
            differences.found.push_back("MSR " + hex(index) + " is gone");
        else if (right[index] != value)
            differences.found.push_back("MSR " + hex(index) + ": " + hex(value) + ", " +
                                        hex(right[index]));
    }
    if (right.size() > left.size())
        differences.found.push_back("MSRs that were not there");
    return differences.found;
}

}  // namespace spore
