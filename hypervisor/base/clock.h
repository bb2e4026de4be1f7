#pragma once

#include <time.h>

#include <cstdint>

namespace spore {

// CLOCK_MONOTONIC, which all processes of a host share. Any thread.
inline uint64_t monotonic_ns() {
    timespec now = {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace spore
