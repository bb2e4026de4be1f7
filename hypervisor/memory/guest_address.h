#pragma once

#include <compare>
#include <cstdint>
#include <optional>

namespace spore {

// A guest-physical address. Arithmetic that could wrap is checked; there is no implicit conversion.
class GuestAddress {
  public:
    constexpr GuestAddress() = default;
    constexpr explicit GuestAddress(uint64_t value) : value_(value) {}

    constexpr uint64_t value() const { return value_; }

    // This address plus `bytes`; nothing if that is beyond 2^64.
    constexpr std::optional<GuestAddress> checked_add(uint64_t bytes) const {
        uint64_t sum = 0;
        if (__builtin_add_overflow(value_, bytes, &sum))
            return std::nullopt;
        return GuestAddress(sum);
    }
    constexpr bool is_aligned(uint64_t alignment) const { return value_ % alignment == 0; }

    constexpr auto operator<=>(const GuestAddress&) const = default;

  private:
    uint64_t value_ = 0;
};

}  // namespace spore
