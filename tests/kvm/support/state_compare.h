#pragma once

#include <string>
#include <vector>

#include "hypervisor/kvm/vcpu.h"

namespace spore {

// What differs between two states of a vCPU that did not run in between, one line each. Time goes
// on: the TSC and the LAPIC timer's current count are not compared.
std::vector<std::string> state_differences(const VcpuState& before, const VcpuState& after);

}  // namespace spore
