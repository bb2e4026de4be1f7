#pragma once

#include <filesystem>

#include "hypervisor/base/result.h"

namespace spore {

// Reads all of the snapshot in `directory` and checks every checksum: state, memory, disk maps.
// Errors: corrupt and version_mismatch, naming the file.
Status verify_snapshot(const std::filesystem::path& directory);

}  // namespace spore
