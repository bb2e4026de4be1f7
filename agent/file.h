#pragma once

#include <string>
#include <string_view>

#include "hypervisor/base/small_file.h"

namespace spore {

// The agent's own files, in memory.
inline constexpr const char* kOwnFiles = "/run/spore";

// replace_file, and where the file system is read-only a file of kOwnFiles bound over `path`.
Status put_file(const std::string& path, std::string_view content);

// Puts `content` into the file that is there, and does as put_file where there is none or no plain
// one. Cheap if the file's page is cached and it does not shrink: nothing is allocated or renamed.
Status overwrite_file(const std::string& path, std::string_view content);

// Whether `path` is a directory, or a link to one.
bool is_folder(const std::string& path);

}  // namespace spore
