#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

#include "hypervisor/base/result.h"

namespace spore {

// What poll(2) is to wait at most: 0 when `deadline` is over, rounded up else.
inline int milliseconds_until(std::chrono::steady_clock::time_point deadline) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    return left.count() < 0 ? 0 : static_cast<int>(std::min<int64_t>(left.count() + 1, 1 << 30));
}

// Until `fd` can be read, or is at its end. Errors: timeout, with that message; the host's.
Status wait_readable(int fd, std::chrono::steady_clock::time_point deadline,
                     const std::string& what_is_late);

}  // namespace spore
