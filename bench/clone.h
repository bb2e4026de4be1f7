#pragma once

// A clone under measurement.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/sandbox/vmm_process.h"

namespace spore::bench {

struct Clone {
    ProcessIdentity vmm;
    std::filesystem::path directory;
    uint64_t begun_ns = 0;  // CLOCK_MONOTONIC, all of them
    uint64_t built_ns = 0;  // before begun_ns if it was parked
    uint64_t first_exit_ns = 0;
    std::vector<std::pair<std::string, uint64_t>> stages;  // each's end, in order; if asked for

    double b1_us() const {
        return built_ns < begun_ns ? 0 : static_cast<double>(built_ns - begun_ns) / 1000;
    }
    double b2_us() const { return static_cast<double>(first_exit_ns - begun_ns) / 1000; }
};

// Asks the VMM when its boundaries were. Waits until the guest has exited once.
Status learn_boundaries(Clone& clone);
// Kills it and removes its directory: off every measured part.
Status end_clone(const Clone& clone);

}  // namespace spore::bench
