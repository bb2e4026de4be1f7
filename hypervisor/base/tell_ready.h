#pragma once

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// One line to whoever started us: that we serve (or wait, as was asked), or why not. False if
// nobody is there to read it: then nobody will ever end us. No `fd`: nobody wants to know.
bool tell_ready(UniqueFd fd, const Status& status);

}  // namespace spore
