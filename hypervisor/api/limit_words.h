#pragma once

// Between the public words for limits and networks and the tree's own.

#include <spore/limits.h>

#include "hypervisor/sandbox/quotas.h"
#include "hypervisor/sandbox/record.h"

namespace spore {

QuotaWords words_of(const Limits& limits);
NetworkWords words_of(const NetworkAccess& access);

}  // namespace spore
