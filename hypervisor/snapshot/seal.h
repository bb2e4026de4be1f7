#pragma once

// What a template's large files were when their content was last compared with its checksums: read
// and compared each time that they are opened for a clone, in microseconds, since reading them
// would take seconds.
//
// Where the file system has fs-verity, each file's digest: the kernel then checks every page when
// it is read, and lets nobody write. Elsewhere a stamp: inode, length, time of modification and of
// change. It notices a file that was replaced or written to; not what a failing disk makes of one,
// nor somebody who restores the times. Of a file with several links (a base shared with its image)
// the time of change is left out: one link more or less sets it.
//
// seal.spore is of one size and has no structure, so that it can be compared before the jail:
//
//   offset size
//        0    8  magic "SPORSEAL"
//        8    4  version (1)
//       12    4  files in use, 8 at most
//       16 8·144 files: name 32, inode 8, length 8, mtime ns 8, ctime ns 8 (0: not compared),
//                digest's algorithm 4 and size 4 (0: none, the stamp counts), digest 64, zeros 8
//     1168    8  XXH3-64 of all before it
//
// All little-endian; names are padded with zeros. It belongs to this host's files: whoever moves a
// template makes it anew (spore template verify).

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

inline constexpr const char* kSealFile = "seal.spore";

struct VerityDigest {
    uint32_t algorithm = 0;  // FS_VERITY_HASH_ALG_SHA256
    uint32_t size = 0;       // 0: the file has none
    std::array<uint8_t, 64> bytes = {};
    bool operator==(const VerityDigest&) const = default;
};

struct FileSeal {
    std::string name;
    uint64_t inode = 0;
    uint64_t bytes = 0;
    int64_t modified_ns = 0;
    int64_t changed_ns = 0;
    VerityDigest verity;
};

class Seal {
  public:
    // Of the files `names` in `directory` as they are now.
    static Result<Seal> of(const std::filesystem::path& directory,
                           std::span<const std::string> names);
    // From `directory`. Errors: corrupt (there is none, it is broken), version_mismatch.
    static Result<Seal> read(const std::filesystem::path& directory);
    // Replaces that in `directory`, in one step and read-only.
    Status write(const std::filesystem::path& directory) const;

    const std::vector<FileSeal>& files() const { return files_; }
    // Whether the kernel checks all of them.
    bool has_verity() const;
    // Whether the open file `file` is what was sealed as `path`'s last part. Errors: corrupt,
    // naming `path` and what is different.
    Status check(int file, const std::string& path) const;

  private:
    std::vector<FileSeal> files_;
};

// Has the kernel check a file from here on, and refuse to have it written. Reads all of it, unless
// it is so already. False where file system or kernel cannot. Errors: the host's.
Result<bool> enable_verity(const std::filesystem::path& path);
// The digest of a file with fs-verity; none without.
Result<VerityDigest> measure_verity(int file, const std::string& name);

}  // namespace spore
