#pragma once

// What a guest is told of its processor.

#include <linux/kvm.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

using CpuidEntries = std::vector<kvm_cpuid_entry2>;

// Names a set of masks: "host" offers all that KVM supports, "baseline" about what any x86-64-v2
// machine has, so that a snapshot may move. Errors: invalid_argument, naming those there are.
Status check_cpu_template(std::string_view name);

// The CPUID of vCPU `index` of `count`, from what KVM supports: topology and APIC ID, the
// hypervisor bit and KVM's paravirtual leaves, the TSC-deadline timer, no MONITOR, VMX, SVM or
// performance counters, XSAVE states and sizes that fit the features offered; masked by the
// template. Errors: invalid_argument.
Result<CpuidEntries> make_cpuid(const CpuidEntries& supported, std::string_view cpu_template,
                                uint32_t index, uint32_t count);

// Whether a guest made with `guest` can go on where KVM supports `supported`. Errors:
// version_mismatch, naming the vendor or the first feature that is missing.
Status check_cpuid_runs(const CpuidEntries& guest, const CpuidEntries& supported);

// "AuthenticAMD"; empty if leaf 0 is missing.
std::string cpu_vendor(const CpuidEntries& entries);

// The XCR0 with everything that `guest` offers; 1 if it has no XSAVE.
uint64_t cpuid_xcr0(const CpuidEntries& guest);

}  // namespace spore
