#pragma once

// A pool's keeper at work: makes clones wait, sees them taken or dying, makes others.

#include <chrono>
#include <map>
#include <string>

#include "hypervisor/network/host_watch.h"
#include "hypervisor/sandbox/pool_directory.h"
#include "hypervisor/sandbox/template_lock.h"
#include "hypervisor/sandbox/zygote.h"

namespace spore {

// One thread; works in the pool's directory (its sockets' paths stay short).
class PoolKeeper {
  public:
    using Deadline = std::chrono::steady_clock::time_point;

    // Takes the lock, clears away what an earlier keeper left. `signals`: a signalfd of those that
    // end the keeper, which outlives it. Errors: already_exists (another keeper lives), not_found
    // (the template).
    static Result<PoolKeeper> begin(const Home& home, const PoolSpec& spec, int signals);
    PoolKeeper(PoolKeeper&&) = default;
    // What waits goes with it.
    ~PoolKeeper();

    // Before anything else. Errors: the VMM's.
    Status start_zygote(Deadline deadline);
    // Until as many wait as are wanted, or it is told to end. Errors: the zygote's, a worker's.
    Status fill();
    // Keeps it full until it is told to end.
    Status serve();

  private:
    struct Waiting {
        CloneSource source;
        UniqueFd process;  // a pidfd: readable when it has died
    };

    PoolKeeper(const Home& home, int signals) : home_(home), signals_(signals) {}
    bool is_told_to_end() const;
    void end_zygote();
    uint32_t count(CloneSource source) const;
    Status make(CloneSource source);
    Result<WorkerFiles> make_files(const std::string& directory, const CgroupSpot& spot,
                                   UniqueFd& ready);
    void drop_gone();
    void drain_watch();
    void drop_all();
    Status watch_host();
    Status see_host_rules();
    Status see_host_changes();
    // False: it is told to end.
    Result<bool> wait_for_quiet();
    Status refill();

    Home home_;
    int signals_;
    PoolSpec spec_;
    std::optional<TemplateLock> template_lock_;  // while there is a pool
    TemplateInfo template_;
    std::filesystem::path directory_;
    std::optional<KeeperLock> lock_;
    UniqueFd watch_;  // inotify: a directory was moved away
    // Of a template whose clones have networks of the host's; they are made with `rules_`.
    std::optional<HostWatch> host_;
    std::string rules_;
    UniqueFd lease_read_, lease_write_;
    bool verified_ = false;  // the template's files
    std::optional<Zygote> zygote_;
    std::map<std::string, Waiting> waiting_;  // by directory
    int behind_request_ms_ = 0;               // see kBehindRequestMs
};

}  // namespace spore
