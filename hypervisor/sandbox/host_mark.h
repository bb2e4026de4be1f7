#pragma once

// Whether a template has run on this host as it is now. What KVM supports changes only with the
// kernel or its modules, and asking it takes 0.3 ms (it executes CPUID some 75 times), a tenth of a
// cold create: so a spore-vmm that is the first of a template here asks, those after it need not.

#include <filesystem>

#include "hypervisor/base/result.h"

namespace spore {

// False too where it cannot be told.
bool has_run_here(const std::filesystem::path& template_directory);
// A clone of it has come up, its CPU checked.
Status note_run_here(const std::filesystem::path& template_directory);

}  // namespace spore
