#pragma once

#include <filesystem>

#include "hypervisor/base/result.h"

namespace spore {

// Removes `path` with all below it; good if there is none. Somebody who has been started in there
// by a process that was killed since may still be beginning: what it makes meanwhile goes too.
// Errors: the host's, with the path.
Status remove_tree(const std::filesystem::path& path);

}  // namespace spore
