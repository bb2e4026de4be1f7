#pragma once

// Clones made ahead of demand. A pool belongs to a template and has a keeper, a process that has a
// zygote fork workers (schema/zygote.h) until as many wait as the user wants:
//
//   pools/TEMPLATE/pool.json         what the keeper was asked for, and who it is
//   pools/TEMPLATE/keeper.lock       locked as long as the keeper lives
//   pools/TEMPLATE/keeper.log
//   pools/TEMPLATE/parked-XXXX/      a clone whose VM is built and loaded
//   pools/TEMPLATE/ready-XXXX/       one whose process waits, jailed, with a VM not loaded yet
//
// Such a directory is a sandbox's: its sockets, its disk's top, its logs. Taking a clone is
// renaming it to sandboxes/ID, which only one can do, so no request waits for the keeper; the
// keeper sees it go and makes another. A waiting clone ends by itself when its keeper is gone.

#include <chrono>
#include <cstdint>
#include <optional>

#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/template.h"

namespace spore {

// How a clone came to be.
enum class CloneSource { cold, ready, parked };
std::string_view source_name(CloneSource source);

struct PoolSpec {
    std::string template_name;
    uint32_t parked = 0;  // how many of each are to wait; at most limits::kPoolSizeMax together
    uint32_t ready = 0;
};

struct PoolInfo {
    PoolSpec spec;
    bool alive = false;  // its keeper is
    int keeper_pid = 0;
    uint32_t parked = 0;  // how many wait now
    uint32_t ready = 0;
};

// Starts the template's keeper, or asks the running one for other sizes; returns when as many wait
// as were asked for. Errors: not_found (template), invalid_argument (sizes), timeout, the VMM's.
Status start_pool(const Home& home, const PoolSpec& spec, std::chrono::milliseconds limit);
// Ends the keeper and what waits; sandboxes taken from the pool go on. Errors: not_found.
Status stop_pool(const Home& home, const std::string& template_name);
// Also clears away what keepers that died have left.
Result<std::vector<PoolInfo>> list_pools(const Home& home);
// Whether a keeper lives for this template.
bool has_pool(const Home& home, const std::string& template_name);

// A clone taken from a pool: its directory is the caller's, and locked.
struct TakenClone {
    CloneSource source;
    DirectoryLock lock;
};

// Moves a waiting clone of the template, parked before ready, to `directory`, which must not exist.
// Nothing if none waits. The clone may yet turn out to be dead: then another can be taken. Errors:
// already_exists (the directory).
Result<std::optional<TakenClone>> take_clone(const Home& home, const std::string& template_name,
                                             const std::filesystem::path& directory);

// The keeper itself: `spore pool keep`. Serves until SIGTERM, SIGINT or SIGHUP; writes one line to
// `ready` (like spore-vmm) when the pool is full for the first time.
Status keep_pool(const Home& home, const PoolSpec& spec, int ready);

}  // namespace spore
