#pragma once

// Templates' directories between being and not being. Whoever works on one has it locked
// (record.h); one that nobody has locked is what somebody's death has left. Nobody but template*.cc
// includes this.

#include <string>

#include "hypervisor/sandbox/home.h"

namespace spore {

// What such directories' names begin with.
inline const std::string kMakingTemplate = ".making-";
inline const std::string kRemovingTemplate = ".removing-";
// In a template that is being made: where its VM runs.
inline constexpr const char* kTemplateRun = "run";

// Ends the VMs of those who died while they made a template, and removes what is left of theirs and
// of those who died while they removed one.
Status clear_template_remains(const Home& home);

}  // namespace spore
