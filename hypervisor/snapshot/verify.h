#pragma once

#include <filesystem>

#include "hypervisor/base/result.h"
#include "hypervisor/snapshot/checksums.h"

namespace spore {

// Reads all of the snapshot in `directory` and checks every checksum: state, memory, disk maps.
// `memory`: checksums that its memory is known to match already. Errors: corrupt and
// version_mismatch, naming the file.
Status verify_snapshot(const std::filesystem::path& directory,
                       const FileChecksums* memory = nullptr);

}  // namespace spore
