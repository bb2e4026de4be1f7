#pragma once

// Limits of code contexts, beside hypervisor/base/limits.h.

#include "hypervisor/base/limits.h"

namespace spore::limits {

// Code of one run of a context; and one answer to it: all that a run may show, escaped.
inline constexpr uint64_t kContextCodeBytesMax = 1 * kMiB;
inline constexpr uint64_t kContextAnswerBytesMax = 32 * kMiB;
// Answers that wait in a context's log for a client that is slow: above the 4 MiB of data that one
// run may show (context_python.py), as the last of them must not be lost.
inline constexpr uint64_t kContextLogBytes = 6 * kMiB;
static_assert(kContextLogBytes <= kProcessLogBytesMax);

}  // namespace spore::limits
