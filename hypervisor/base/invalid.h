#pragma once

#include <string>
#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

// invalid_argument, as every refused word or number is told: "<what> '<text>': <why>".
inline std::unexpected<Error> invalid(std::string_view what, std::string_view text,
                                      std::string_view why) {
    return fail(Code::invalid_argument,
                std::string(what) + " '" + std::string(text) + "': " + std::string(why));
}

}  // namespace spore
