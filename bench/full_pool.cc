#include "bench/full_pool.h"

#include <unistd.h>

namespace spore::bench {

Status wait_for_pool(const Home& home, const PoolSpec& pool) {
    using Clock = std::chrono::steady_clock;
    for (auto limit = Clock::now() + std::chrono::seconds(120); Clock::now() < limit;) {
        for (const PoolInfo& each : TRY(list_pools(home))) {
            if (each.spec.template_name == pool.template_name && each.ready == pool.ready &&
                each.parked == pool.parked)
                return {};
        }
        ::usleep(20'000);
    }
    return fail(Code::timeout, "pool '" + pool.template_name + "': does not fill");
}

}  // namespace spore::bench
