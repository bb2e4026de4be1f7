#pragma once

// How much may pass in a second, as people write it: "50M", "50M,ops=1000", "ops=1000,burst=8M".

#include <cstdint>
#include <string>
#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

struct Rate {
    uint64_t per_second = 0;  // 0: no limit
    uint64_t burst = 0;       // what may pass at once; with a limit never 0

    bool limited() const { return per_second != 0; }
    bool operator==(const Rate&) const = default;
};

// Both hold: a request passes when there is room for it in each.
struct RateLimits {
    Rate bytes;
    Rate operations;  // a disk's requests, a network's packets

    bool limited() const { return bytes.limited() || operations.limited(); }
    bool operator==(const RateLimits&) const = default;
};

// "[BYTES][,UNIT=N][,burst=BYTES][,UNIT-burst=N]" in any order; `unit` is "ops" or "packets".
// "none" is no limit at all. Bursts that are not given are chosen (quota_limits.h). Errors:
// invalid_argument, naming `what`, the value and the bound.
Result<RateLimits> parse_rate_limits(std::string_view what, std::string_view text,
                                     std::string_view unit);
// The same text again, with every burst; "none" without a limit.
std::string rate_limits_text(const RateLimits& limits, std::string_view unit);
// Whether these may be set at all, wherever they come from. Errors: invalid_argument.
Status check_rate_limits(std::string_view what, const RateLimits& limits, std::string_view unit);

}  // namespace spore
