#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "hypervisor/base/result.h"

namespace spore {

// How much of a file is done, in bytes, holes not counted.
using CopyProgress = std::function<void(uint64_t done_bytes)>;

// Makes a new file at `to` with the content of `from`: sharing its blocks where the file system
// can, holes and (where the kernel leaves copying to us) pages of zeros as holes; on stable storage
// when this returns. Blocks. Nothing is left of it on an error. Errors: the host's.
Status copy_sparse(const std::string& from, const std::string& to,
                   const CopyProgress& progress = {});

}  // namespace spore
