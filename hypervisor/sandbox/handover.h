#pragma once

// What whoever takes a waiting clone needs to know of it, put into its directory by the keeper: one
// short line, read after the clone has got its go.

#include <filesystem>
#include <optional>

#include "hypervisor/sandbox/agent_client.h"
#include "hypervisor/sandbox/vmm_process.h"

namespace spore {

struct Handover {
    ProcessIdentity process;            // the spore-vmm
    std::optional<AgentCarried> agent;  // the connection to its agent that can be attached to
};

Status write_handover(const std::filesystem::path& directory, const Handover& handover);
// Errors: corrupt, naming the file.
Result<Handover> read_handover(const std::filesystem::path& directory);

}  // namespace spore
