#pragma once

// The container of a snapshot's files with structure: a fixed header, then the payload.
// UNTRUSTED when read: nothing of it is used before length, version and checksums have been checked
// here; what the payload says, its reader checks. Fuzz targets: those of its readers.
//
//   offset size
//        0    8  magic, of the kind of file
//        8    4  format version, of that kind
//       12    4  header bytes (40)
//       16    8  payload bytes
//       24    8  XXH3-64 of the payload
//       32    8  XXH3-64 of header bytes 0..31
//       40    …  payload
//
// All little-endian. A newer version is refused before anything behind it is looked at; the
// header's own checksum is checked first, so that a flipped bit is told from a newer version.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

struct FileKind {
    std::string_view magic;  // 8 bytes
    std::string_view name;   // begins messages: "snapshot state"
    uint32_t version;        // written
    uint32_t version_min;    // every one from it to `version` is read
    uint64_t payload_bytes_max;
};

// Wraps `payload` and writes it to the empty file `file`, synced. Errors: the host's.
Status write_checked_file(const FileKind& kind, int file, std::span<const std::byte> payload);
// The same to a new file at `path`.
Status write_checked_file(const FileKind& kind, const std::string& path,
                          std::span<const std::byte> payload);

// The payload of an open file, with the alignment a FlatBuffer needs; `name` begins messages.
// Errors: corrupt (naming what), version_mismatch, the host's.
Result<std::vector<std::byte>> read_checked_file(const FileKind& kind, int file,
                                                 const std::string& name);
// The same from bytes at hand.
Result<std::span<const std::byte>> open_checked(const FileKind& kind,
                                                std::span<const std::byte> file);

}  // namespace spore
