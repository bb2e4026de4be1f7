#pragma once

// The file of a snapshot's state: checked_file.h's container around one FlatBuffer
// (schema/snapshot.fbs), magic "SPORESNP". UNTRUSTED when read: the FlatBuffer is verified in
// state_decode.cc. Every version from 1 on is read; what a file's version did not have yet is
// absent from its FlatBuffer. Fuzz target: fuzz-snapshot.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

// Raised with every change that an older reader would misread; golden files of each in
// tests/golden.
inline constexpr uint32_t kSnapshotVersion = 3;
inline constexpr uint32_t kSnapshotVersionMin = 1;

// Wraps `payload` and writes it to a new file at `path`, synced. Errors: the host's.
Status write_state_file(const std::string& path, std::span<const std::byte> payload);

// The payload of the file at `path`, with the alignment a FlatBuffer needs. Errors: not_found,
// permission_denied, corrupt (naming what), version_mismatch.
Result<std::vector<std::byte>> read_state_file(const std::string& path);
// The same of a file that is open already; `name` begins messages.
Result<std::vector<std::byte>> read_state_file(int file, const std::string& name);
// The same from bytes at hand.
Result<std::span<const std::byte>> open_state(std::span<const std::byte> file);

}  // namespace spore
