#pragma once

// A template's first clone, made before it is published: it shows that it restores, and which pages
// of its memory a clone touches first (hypervisor/snapshot/working_set.h).

#include <chrono>

#include "hypervisor/sandbox/end_on_stop.h"
#include "hypervisor/sandbox/template.h"

namespace spore {

// The least that a clone is made for, whose pages its working set is about: `/bin/true`. A program
// that is not there has shown what starting one touches, and is no error.
Status run_least_command(AgentClient& agent, std::chrono::steady_clock::time_point deadline);

// Clones `draft`, whose files are in its directory and which has an agent to attach to: the clone
// gets an identity and runs /bin/true. Writes the working set that comes of it beside the snapshot.
// `run`: a directory for the clone, made anew. `tap`: of a template with a card, not used by
// another. Errors: what create_sandbox() would say.
Status record_working_set(const TemplateInfo& draft, const std::filesystem::path& run,
                          EndOnStop& stop, std::chrono::steady_clock::time_point deadline,
                          int tap = -1);

}  // namespace spore
