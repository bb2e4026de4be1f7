#pragma once

#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

// Names of processes and sessions (schema/agent.fbs, Bounds). `what` names it in the error.
// Errors: invalid_argument.
Status check_given_name(std::string_view what, std::string_view name);

}  // namespace spore
