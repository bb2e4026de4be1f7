#pragma once

// Off every measured part: a pool from which the next clone can be taken.

#include "hypervisor/sandbox/pool.h"

namespace spore::bench {

// Until as many wait in the pool as it is to have, so that its keeper is at rest. Errors: timeout.
Status wait_for_pool(const Home& home, const PoolSpec& pool);

}  // namespace spore::bench
