#pragma once

#include <filesystem>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// Connects a socket of `type` (SOCK_STREAM, SOCK_SEQPACKET) to the Unix socket `name` in
// `directory`, however long the directory's path is. Errors: unavailable if nobody listens.
Result<UniqueFd> connect_unix(const std::filesystem::path& directory, const std::string& name,
                              int type);

}  // namespace spore
