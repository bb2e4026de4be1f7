#pragma once

// What a guest can add to its VMM's log.

#include <bit>
#include <cstdint>

namespace spore::limits {

// A device's failures that are told one by one. A guest can make millions of them in a minute: of
// those behind, the ones are told whose number is a power of two, so a device never adds more than
// 16 + 60 lines.
inline constexpr uint64_t kFailuresTold = 16;
static_assert(std::has_single_bit(kFailuresTold));

constexpr bool is_told(uint64_t failure) {
    return failure <= kFailuresTold || std::has_single_bit(failure);
}

}  // namespace spore::limits
