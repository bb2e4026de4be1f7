#pragma once

// The host's end of a guest's vsock: the UNIX socket that its spore-vmm serves.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

struct VsockStream {
    UniqueFd socket;
    uint32_t host_port = 0;  // its own
};

// Connects to `port` in the guest behind `socket`. Errors: unavailable (no VMM, or nobody listens),
// timeout.
Result<VsockStream> connect_vsock(const std::filesystem::path& socket, uint32_t port,
                                  std::chrono::steady_clock::time_point deadline);

// Waits for a line and takes nothing of what follows it; without its newline. Errors: timeout;
// unavailable: the end came first; corrupt: above `bytes_max`.
Result<std::string> receive_line(int socket, size_t bytes_max,
                                 std::chrono::steady_clock::time_point deadline);

}  // namespace spore
