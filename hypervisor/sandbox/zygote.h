#pragma once

// A template's zygote, from its keeper's side (schema/zygote.h).

#include <chrono>
#include <vector>

#include "hypervisor/base/unique_fd.h"
#include "hypervisor/jail/own_user.h"
#include "hypervisor/sandbox/template.h"
#include "hypervisor/sandbox/vmm_process.h"
#include "schema/zygote.h"

namespace spore {

// What a worker gets. The caller keeps its own ends and closes these.
struct WorkerFiles {
    UniqueFd log, ready, lease, console, control, vsock, go;
    std::vector<UniqueFd> disks;     // empty files
    std::vector<UniqueFd> networks;  // connected Unix stream sockets, but for those in `taps`
    uint32_t taps = 0;               // bit n: network n is a tap
    bool stage_times = false;
    int cgroup = -1;                   // the directory of its cgroup, or -1; stays the caller's
    std::string cgroup_text;           // the cgroup's path, or why there is none
    std::vector<UniqueFd> cgroups_v1;  // `tasks` of its counterparts
    OwnUser user;                      // whose its directory is; 0: the zygote's
};

// One thread. The process ends with this, its workers do not.
class Zygote {
  public:
    using Deadline = std::chrono::steady_clock::time_point;

    // Returns when the zygote has read and checked the snapshot. `directory`: where it runs, and
    // its log. Only a zygote in a cgroup of its own can fork workers into theirs. Errors: the
    // VMM's.
    static Result<Zygote> start(const TemplateInfo& source, const std::filesystem::path& directory,
                                Deadline deadline, CgroupSpot* spot = nullptr);
    Zygote(Zygote&&) = default;
    Zygote& operator=(Zygote&&) = default;
    ~Zygote();

    // Readable when it has died, as it never speaks first.
    int socket() const { return socket_.get(); }
    // Errors: unavailable (it has died), timeout, resource_exhausted (no process to be had).
    Status fork_worker(const WorkerFiles& files, ZygoteStart start, Deadline deadline);

  private:
    Zygote(UniqueFd socket, ProcessIdentity process)
        : socket_(std::move(socket)), process_(process) {}
    UniqueFd socket_;
    ProcessIdentity process_;
};

// Those of a worker's files that are in its directory (its disks are elsewhere), made there: log,
// console, control and vsock socket, go; its cgroup, and by root its user, whose the directory
// becomes. `directory`: short enough for a socket's
// path. Errors: the host's; invalid_argument.
Result<WorkerFiles> make_worker_files(const std::string& directory, const CgroupSpot& spot);

// The options that name the template's files to a spore-vmm; `top` is where a clone's writes go
// ("-": to a file that comes with each worker).
std::vector<std::string> restore_arguments(const TemplateInfo& source, const std::string& top);

}  // namespace spore
