#pragma once

// The checksums of a template's files (schema/checksums.fbs), in a file of their own: read when
// everything is verified, never on a clone's way. They find what accidents change: XXH3 is no match
// for somebody who means it, who could write this file as well. UNTRUSTED when read.
// Fuzz target: fuzz-checksums.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/snapshot/memory_image.h"

namespace spore {

inline constexpr const char* kChecksumsFile = "checksums.spore";

struct FileChecksums {
    std::string name;
    uint64_t bytes = 0;
    std::vector<uint64_t> chunk_hashes;  // of each kImageChunkBytes
    bool operator==(const FileChecksums&) const = default;
};
using Checksums = std::vector<FileChecksums>;  // by name

// Says how far the work on a file is: `done` of `bytes`.
using ChecksumProgress =
    std::function<void(const std::string& name, uint64_t done, uint64_t bytes)>;

// Of the regular file `name` in `directory`. Holes are not read. Errors: corrupt where the host
// cannot read what the file has (fs-verity or the disk say no), naming the place; the host's.
Result<FileChecksums> checksum_file(const std::filesystem::path& directory, const std::string& name,
                                    const ChecksumProgress& progress);
// Whether the file still has this content. Errors: corrupt, naming file, place and what is due.
Status compare_file(const std::filesystem::path& directory, const FileChecksums& expected,
                    const ChecksumProgress& progress);

std::vector<std::byte> encode_checksums(const Checksums& checksums);
// Errors: corrupt, naming what.
Result<Checksums> decode_checksums(std::span<const std::byte> payload);

// Writes and reads the file of them in `directory`. Errors: corrupt, version_mismatch, the host's.
Status write_checksums(const std::filesystem::path& directory, const Checksums& checksums);
Result<Checksums> read_checksums(const std::filesystem::path& directory);

}  // namespace spore
