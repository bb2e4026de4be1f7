#pragma once

#include <cstdint>
#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

// "256M" → bytes. Suffixes K, M, G, T (binary), none is bytes. Errors: invalid_argument, naming
// `what` and the text.
Result<uint64_t> parse_size(std::string_view what, std::string_view text);

}  // namespace spore
