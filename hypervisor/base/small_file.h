#pragma once

#include <string>
#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

// The whole of a small file, also one in /proc whose size is not known. Errors: the system call's;
// resource_exhausted above `bytes_max`.
Result<std::string> read_file(const std::string& path, size_t bytes_max = 1 << 20);

// Makes the file hold `content` in one step (a new file, moved over the old one); mode 0644.
Status replace_file(const std::string& path, std::string_view content);

// Writes into a file that exists, a setting in /proc or /sys usually, in one write(2).
Status write_setting(const std::string& path, std::string_view content);

// All of `content` to `fd`, which is `path`.
Status write_all(int fd, const std::string& path, std::string_view content);

}  // namespace spore
