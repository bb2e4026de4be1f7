#pragma once

#include "hypervisor/base/result.h"

namespace spore {

// Makes an empty read-only file system the root of the calling process's mount namespace, which
// must be its own, and lets go of everything else mounted there. System calls only: safe between
// fork and exec but for the text of an error.
Status enter_empty_root();

}  // namespace spore
