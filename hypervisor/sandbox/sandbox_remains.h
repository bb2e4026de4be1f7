#pragma once

// Sandboxes' directories between being and not being; see record.h. Nobody but sandbox*.cc includes
// this.

#include <filesystem>
#include <utility>

#include "hypervisor/sandbox/home.h"
#include "hypervisor/sandbox/record.h"

namespace spore {

// A directory for a sandbox to be, under a passing name, locked.
Result<std::pair<std::filesystem::path, DirectoryLock>> make_new_directory(const Home& home,
                                                                           const std::string& id);

// Kills whatever runs in `directory`, which the caller has locked, and removes it. The process may
// take a moment longer to be gone: its memory and its VM are torn down behind our back.
Status end_and_remove(const std::filesystem::path& directory);

// The same if `directory` is a sandbox that never came to be and that nobody works on.
Status clear_if_abandoned(const std::filesystem::path& directory);

}  // namespace spore
