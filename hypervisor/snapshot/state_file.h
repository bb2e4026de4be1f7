#pragma once

// The container of a snapshot's state: a fixed header, then one FlatBuffer (schema/snapshot.fbs).
// UNTRUSTED when read: nothing of it is used before length, version and checksum have been checked
// here and the FlatBuffer has been verified in state_decode.cc. Fuzz target: fuzz-snapshot.
//
//   offset size
//        0    8  magic "SPORESNP"
//        8    4  format version (kSnapshotVersion)
//       12    4  header bytes (40)
//       16    8  payload bytes
//       24    8  XXH3-64 of the payload
//       32    8  XXH3-64 of header bytes 0..31
//       40    …  payload
//
// All little-endian. Every version from 1 on is read; what a file's version did not have yet is
// absent from its FlatBuffer. A newer version is refused before anything behind it is looked at;
// the header's own checksum is checked first, so that a flipped bit is told from a newer version.

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
