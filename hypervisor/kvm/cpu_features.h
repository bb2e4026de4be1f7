#pragma once

// CPUID registers that hold feature bits, and the names of those bits.

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace spore {

enum class CpuidRegister : uint8_t { eax, ebx, ecx, edx };

// One register full of feature bits: more bits, more features.
struct FeatureWord {
    uint32_t function;
    uint32_t index;
    CpuidRegister which;
    // What the template "baseline" keeps: x86-64-v2 and what Linux needs for kvmclock, the TSC, and
    // its mitigations.
    uint32_t baseline;
    // Not compared: set by us or by the guest's control registers, whatever the host has.
    uint32_t not_the_hosts;
    // By bit; empty where people have no name for it.
    std::string_view names[32];
};

std::span<const FeatureWord> feature_words();

// "avx2", or "leaf 0x7.0 EBX bit 12".
std::string feature_name(const FeatureWord& word, uint32_t bit);

uint32_t& cpuid_register(kvm_cpuid_entry2& entry, CpuidRegister which);

// The entry for a leaf and sub-leaf, or null.
kvm_cpuid_entry2* find_cpuid(std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                             uint32_t index = 0);
const kvm_cpuid_entry2* find_cpuid(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                                   uint32_t index = 0);

}  // namespace spore
