#pragma once

// Clones' directories between being and not being; see record.h. Nobody but sandbox*.cc, pool*.cc
// and template_remains.cc includes this.

#include <filesystem>
#include <utility>

#include "hypervisor/sandbox/home.h"
#include "hypervisor/sandbox/record.h"

namespace spore {

// A passing name that nobody has, for the directory of a sandbox to be.
Result<std::filesystem::path> new_directory_name(const Home& home, const std::string& id);

// A directory for a sandbox to be, under a passing name, locked.
Result<std::pair<std::filesystem::path, DirectoryLock>> make_new_directory(const Home& home,
                                                                           const std::string& id);

// Where the top of the disk of a clone in `directory` is to be made: a name in home.disks() that
// nobody has. A link to it, by the name that it would have in there, is in `directory` already, so
// that it is found whatever happens from here on.
Result<std::filesystem::path> name_disk(const Home& home, const std::filesystem::path& directory);

// Removes the directory of a clone that does not run, and its disk.
Status remove_clone(const std::filesystem::path& directory);

// Kills whatever runs in `directory`, which the caller has locked, and removes it. The process may
// take a moment longer to be gone: its memory and its VM are torn down behind our back.
Status end_and_remove(const std::filesystem::path& directory);

// The same if `directory` is a sandbox that never came to be and that nobody works on.
Status clear_if_abandoned(const std::filesystem::path& directory);

}  // namespace spore
