#pragma once

// A snapshot's memory: the regions one after another in a sparse file, pages of zeros as holes, and
// a checksum for each chunk. UNTRUSTED when read: its size is checked against the region table
// before it is mapped, its bytes against the checksums by verify_memory_image().

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

// Checksums are kept for pieces this large: 8 bytes for 2 MiB, so 1 KiB for a 256 MiB guest.
inline constexpr uint64_t kImageChunkBytes = 2 * limits::kMiB;

struct MemoryImageInfo {
    uint64_t file_bytes = 0;
    uint64_t data_bytes = 0;             // pages that are not all zero
    std::vector<uint64_t> chunk_hashes;  // XXH3-64 of each chunk, the last may be short
};

// Writes all of `memory` (which nobody may be changing) to a new file at `path`, synced.
Result<MemoryImageInfo> write_memory_image(const GuestMemory& memory, const std::string& path);

// Opens an image and checks that it is a regular file of exactly `file_bytes`. Errors: not_found,
// permission_denied, corrupt.
Result<UniqueFd> open_memory_image(const std::string& path, uint64_t file_bytes);
// The check alone, of a file that is open already; `name` begins messages.
Status check_memory_image(int image, const std::string& name, uint64_t file_bytes);

// Reads the whole image and compares every chunk. Errors: corrupt, naming the first wrong chunk.
Status verify_memory_image(int image, uint64_t file_bytes, std::span<const uint64_t> chunk_hashes);

}  // namespace spore
