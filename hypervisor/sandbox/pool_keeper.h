#pragma once

// A pool's keeper at work: makes clones wait, sees them taken or dying, makes others.

#include <chrono>
#include <map>
#include <string>

#include "hypervisor/sandbox/pool.h"
#include "hypervisor/sandbox/zygote.h"

namespace spore {

// The names in a pool's directory.
namespace pool_files {
inline constexpr const char* kInfo = "pool.json";
inline constexpr const char* kLock = "keeper.lock";
inline constexpr const char* kLog = "keeper.log";
inline constexpr const char* kMaking = "making-";  // a directory that is not a clone yet
}  // namespace pool_files

// Removes all clones that wait in a pool's `directory`, whose keeper is dead.
Status clear_pool(const std::filesystem::path& directory);

// One thread; works in the pool's directory (its sockets' paths stay short).
class PoolKeeper {
  public:
    using Deadline = std::chrono::steady_clock::time_point;

    // Takes the lock, clears away what an earlier keeper left, starts the zygote. Errors:
    // already_exists (another keeper lives), the VMM's.
    static Result<PoolKeeper> start(const Home& home, const PoolSpec& spec, Deadline deadline);
    PoolKeeper(PoolKeeper&&) = default;
    // What waits goes with it.
    ~PoolKeeper();

    // Until as many wait as are wanted. Errors: the zygote's, a worker's.
    Status fill();
    // Keeps it full until a signal that ends it arrives (`signals`: a signalfd).
    Status serve(int signals);

  private:
    struct Waiting {
        CloneSource source;
        UniqueFd process;  // a pidfd: readable when it has died
    };

    explicit PoolKeeper(const Home& home) : home_(home) {}
    Status start_zygote(Deadline deadline);
    void end_zygote();
    uint32_t count(CloneSource source) const;
    Status make(CloneSource source);
    Result<WorkerFiles> make_files(const std::string& directory, const CgroupSpot& spot,
                                   UniqueFd& ready);
    void drop_gone();
    void drain_watch();
    Status refill();

    Home home_;
    PoolSpec spec_;
    TemplateInfo template_;
    std::filesystem::path directory_;
    UniqueFd lock_;
    UniqueFd watch_;  // inotify: a directory was moved away
    UniqueFd lease_read_, lease_write_;
    std::optional<Zygote> zygote_;
    std::map<std::string, Waiting> waiting_;  // by directory
    int behind_request_ms_ = 0;               // see kBehindRequestMs
};

}  // namespace spore
