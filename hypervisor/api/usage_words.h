#pragma once

// From what the tree knows of a sandbox's use to the public words for it.

#include <spore/limits.h>

#include "hypervisor/sandbox/stats.h"

namespace spore {

// Not the library's to show, though its own type is among their words.
[[gnu::visibility("hidden")]] std::vector<Usage::Missing> missing_of(
    const std::vector<Unenforced>& all);
[[gnu::visibility("hidden")]] Usage usage_of(const SandboxStats& stats);

}  // namespace spore
