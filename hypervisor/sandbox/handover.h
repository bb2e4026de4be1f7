#pragma once

// What whoever takes a waiting clone needs to know of it, put into its directory by the keeper: two
// lines, read before the clone gets its go.

#include <filesystem>
#include <optional>

#include "hypervisor/sandbox/agent_client.h"
#include "hypervisor/sandbox/vmm_process.h"

namespace spore {

struct Handover {
    ProcessIdentity process;            // the spore-vmm
    std::optional<AgentCarried> agent;  // the connection to its agent that can be attached to
    // NetworkWords::line() of what its network follows already, its gate open: for whoever wants
    // just that there is nothing to do. Empty: it has none, or one whose gate is closed.
    std::string network = {};
};

// What `network` is read as where it is too long for this file: nobody's words, so that the gate
// is closed for whoever takes the clone.
inline constexpr const char* kTooLongToCarry = "?";

Status write_handover(const std::filesystem::path& directory, const Handover& handover);
// Errors: corrupt, naming the file.
Result<Handover> read_handover(const std::filesystem::path& directory);

}  // namespace spore
