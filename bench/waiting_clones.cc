#include "bench/waiting_clones.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/base/clock.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/handover.h"
#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/vmm_client.h"

namespace spore::bench {

namespace {

Zygote::Deadline in_time() {
    return std::chrono::steady_clock::now() + std::chrono::seconds(60);
}

}  // namespace

Result<WaitingClones> WaitingClones::create(const std::filesystem::path& source,
                                            const std::filesystem::path& base,
                                            std::filesystem::path directory) {
    TemplateInfo info;
    info.directory = source;
    info.base = base;
    std::filesystem::create_directories(directory);
    auto spot = CgroupSpot::make(directory);
    WaitingClones made(TRY(Zygote::start(info, directory, in_time(), &spot)));
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    made.lease_read_.reset(ends[0]);
    made.lease_write_.reset(ends[1]);
    return made;
}

Result<std::filesystem::path> WaitingClones::make(ZygoteStart start,
                                                  const std::filesystem::path& directory,
                                                  const std::filesystem::path& disk,
                                                  UniqueFd network, bool with_stages) {
    if (::mkdir(directory.c_str(), 0700) != 0)
        return fail_errno(directory.string());
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    UniqueFd ready(ends[0]);
    {
        auto spot = CgroupSpot::make(directory);
        spot.open_to_zygote();
        auto files = TRY(make_worker_files(directory, spot));
        files.stage_times = with_stages;
        files.ready.reset(ends[1]);
        files.disks.emplace_back(::open(disk.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (!files.disks.back())
            return fail_errno(disk.string());
        files.networks.push_back(std::move(network));
        files.lease.reset(::fcntl(lease_read_.get(), F_DUPFD_CLOEXEC, 0));
        TRY(zygote_.fork_worker(files, start, in_time()));
    }
    TRY(wait_until_ready(ready.get(), in_time()));
    auto control = TRY(VmmClient::connect(directory));
    TRY(write_handover(directory, {TRY(identify_process(TRY(control.peer()))), std::nullopt}));
    return directory;
}

// What create_sandbox() does up to the clone's go, and its look at whose it is.
Result<Clone> take_waiting(const std::filesystem::path& waiting,
                           const std::filesystem::path& target) {
    Clone clone;
    clone.directory = target;
    clone.begun_ns = monotonic_ns();
    auto lock = DirectoryLock::take(waiting);
    if (!lock ||
        ::renameat2(AT_FDCWD, waiting.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) != 0)
        return fail_errno(waiting.string());
    TRY(give_go(target));
    clone.vmm = TRY(read_handover(target)).process;
    return clone;
}

}  // namespace spore::bench
