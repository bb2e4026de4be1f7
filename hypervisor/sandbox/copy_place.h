#pragma once

#include <string>

#include "hypervisor/sandbox/agent_files.h"

namespace spore {

// The path of what is copied to `to` in a guest under `name`: in that directory, if it is one; else
// `to` itself, as for what has no name (the contents of a directory). Errors: invalid_argument
// (`to` is empty), the agent's.
inline Result<std::string> place_in_guest(const AgentFiles& files, const std::string& to,
                                          const std::string& name, AgentFiles::Deadline deadline) {
    if (to.empty())
        return fail(Code::invalid_argument, "the target's path: is empty");
    if (name.empty())
        return to;
    if (to.ends_with('/'))
        return to + name;
    const auto there = files.stat(to, true, deadline);
    if (!there && there.error().code != Code::not_found)
        return std::unexpected(there.error());
    return there && there->kind == FileKind::directory ? to + "/" + name : to;
}

}  // namespace spore
