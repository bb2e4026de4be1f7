#pragma once

// What templates and sandboxes have in common: a VM with an agent in it.

#include <chrono>
#include <filesystem>

#include "hypervisor/base/result.h"
#include "hypervisor/sandbox/agent_client.h"

namespace spore {

// The vsock port the agent serves, and the VMM's socket in a run directory that leads to it.
inline constexpr uint32_t kAgentPort = 1024;
inline constexpr const char* kVsockName = "v";  // short: "v_<port>" is beside it
inline constexpr const char* kControlName = "control";
// Of a clone that waits: the FIFO through which it gets its go (schema/go.h). Another name where
// that changes: one of an earlier build is then none to take.
inline constexpr const char* kGoName = "go-2";

// Connects to the agent behind `run_directory`, trying again until it listens. Errors: timeout;
// unavailable as soon as the VMM itself is gone.
Result<AgentClient> connect_agent(const std::filesystem::path& run_directory,
                                  std::chrono::steady_clock::time_point deadline);

// Bytes that `path` takes on disk, holes not counted; 0 if it is not there.
uint64_t allocated_bytes(const std::filesystem::path& path);

}  // namespace spore
