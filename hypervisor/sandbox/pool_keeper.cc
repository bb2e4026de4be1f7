#include "hypervisor/sandbox/pool_keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>

#include "hypervisor/base/deadline.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/handover.h"
#include "hypervisor/sandbox/sandbox_quotas.h"
#include "hypervisor/sandbox/sandbox_remains.h"
#include "hypervisor/sandbox/template_check.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/snapshot/state.h"

namespace spore {

using Clock = std::chrono::steady_clock;

namespace {

constexpr auto kWorkerLimit = std::chrono::seconds(60);
// For a command to clear away what the last keeper has left.
constexpr auto kClearingLimit = std::chrono::seconds(5);
// After a clone was taken, the one that took it comes first, up to its first command: making
// another waits until none has been taken for this long, or, on a host where making one takes long
// (and so does the first command), for some times that.
constexpr int kBehindRequestMs = 100;
constexpr int kBehindRequestMakings = 4;
constexpr int kBehindRequestMsMax = 2000;

}  // namespace

Result<PoolKeeper> PoolKeeper::begin(const Home& home, const PoolSpec& spec, int signals) {
    PoolKeeper keeper(home, signals);
    keeper.spec_ = spec;
    keeper.template_lock_ = TRY(TemplateLock::share(home, spec.template_name));
    keeper.template_ = TRY(load_template(home, spec.template_name));
    keeper.directory_ = home.pools() / spec.template_name;
    auto patience = Clock::now() + kClearingLimit;
    for (;;) {
        std::error_code error;
        std::filesystem::create_directories(keeper.directory_, error);
        keeper.lock_ = KeeperLock::take(keeper.directory_, true);
        if (keeper.lock_)
            break;
        if (Clock::now() > patience)
            return fail(Code::already_exists,
                        "pool '" + spec.template_name + "': another keeper is at work");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (::chdir(keeper.directory_.c_str()) != 0)
        return fail_errno(keeper.directory_.string());
    TRY(clear_pool(keeper.directory_));
    if (auto place = find_cgroup_place())
        (void)prepare_cgroup_place(*place);  // what it hands on may have been changed meanwhile
    keeper.watch_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!keeper.watch_ ||
        ::inotify_add_watch(keeper.watch_.get(), ".", IN_MOVED_FROM | IN_ONLYDIR) < 0)
        return fail_errno("inotify");
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    keeper.lease_read_.reset(ends[0]);
    keeper.lease_write_.reset(ends[1]);
    TRY(keeper.watch_host());
    return keeper;
}

// What the networks of waiting clones rest on: rules, addresses and the nameserver of the host.
Status PoolKeeper::watch_host() {
    if (!template_.network || !may_make_networks())
        return {};
    host_ = TRY(HostWatch::open());
    // As host_nameserver() reads them; a directory that is not there has no nameserver's file.
    for (const char* directory : {"/etc", "/run/systemd/resolve"})
        (void)::inotify_add_watch(watch_.get(), directory,
                                  IN_CLOSE_WRITE | IN_MOVED_TO | IN_ONLYDIR);
    rules_ = TRY(rules_now(TRY(complete_policy(*template_.network))));
    return {};
}

// The lease ends what waits; what of it was taken is somebody's, and its end is not waited for.
PoolKeeper::~PoolKeeper() {
    if (!lock_ || !*lock_)  // none, or moved away
        return;
    drop_gone();
    lease_write_.reset();
    end_zygote();
    for (auto& [name, clone] : waiting_) {
        pollfd gone = {clone.process.get(), POLLIN, 0};
        (void)::poll(&gone, 1, 5000);
    }
    (void)clear_pool(directory_);
    ::unlink((directory_ / pool_files::kInfo).c_str());
}

Status PoolKeeper::start_zygote(Deadline deadline) {
    end_zygote();
    auto spot = CgroupSpot::make(directory_);
    auto quietly = [](const std::string&) {};
    // Once for all clones, and on no request's path: all of the template is compared.
    if (!verified_) {
        TRY(verify_template(home_, spec_.template_name, quietly));
        verified_ = true;
        deadline = std::max(deadline, Clock::now() + kWorkerLimit);
    }
    zygote_ = TRY(start_sealed(home_, spec_.template_name, quietly, [&] {
        return Zygote::start(template_, directory_, deadline, &spot);
    }));
    return {};
}

void PoolKeeper::end_zygote() {
    if (!zygote_)
        return;
    zygote_.reset();
    if (auto cgroup = cgroup_of_directory(directory_); !cgroup.empty())
        (void)remove_cgroup(cgroup);
}

uint32_t PoolKeeper::count(CloneSource source) const {
    return static_cast<uint32_t>(std::ranges::count_if(
        waiting_, [&](const auto& entry) { return entry.second.source == source; }));
}

Result<WorkerFiles> PoolKeeper::make_files(const std::string& directory, const CgroupSpot& spot,
                                           UniqueFd& ready) {
    auto files = TRY(make_worker_files(directory, spot));
    auto disk = TRY(name_disk(home_, directory));  // the worker makes it long enough
    files.disks.emplace_back(::open(disk.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!files.disks.back())
        return fail_errno(disk.string());
    if (template_.network) {
        files.networks.push_back(
            TRY(make_card_network(directory, TRY(complete_policy(*template_.network)))));
        files.taps = 1;
    }
    files.lease.reset(::fcntl(lease_read_.get(), F_DUPFD_CLOEXEC, 0));
    int ends[2];
    if (!files.lease || ::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    ready.reset(ends[0]);
    files.ready.reset(ends[1]);
    return files;
}

// One clone more. It gets its name when it waits: nobody can take half of one.
Status PoolKeeper::make(CloneSource source) {
    auto begun = Clock::now();
    auto deadline = begun + kWorkerLimit;
    std::string id = TRY(random_name()).substr(3);
    std::string making = pool_files::kMaking + id;
    TRY(make_directory(making));
    auto made = [&]() -> Result<UniqueFd> {
        UniqueFd ready;
        auto spot = CgroupSpot::make(
            making, cgroup_quotas({}, {template_.memory_bytes, template_.disk_bytes}));
        spot.open_to_zygote();
        {
            auto files = TRY(make_files(making, spot, ready));
            TRY(zygote_->fork_worker(
                files, source == CloneSource::parked ? ZygoteStart::built : ZygoteStart::prepared,
                deadline));
        }
        spot.forked();
        TRY(wait_until_ready(ready.get(), deadline));
        spot.started();
        auto control = TRY(VmmClient::connect(making));
        int pid = TRY(control.peer());
        UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
        if (!process)
            return fail_errno("pidfd_open");
        std::string network =
            template_.network ? TRY(follow_ahead(making, *template_.network)) : std::string();
        TRY(write_handover(making, {TRY(identify_process(pid)), template_.agent, network}));
        return process;
    }();
    if (!made) {
        (void)remove_clone(making);
        return std::unexpected(std::move(made).error());
    }
    std::string name = std::string(source_name(source)) + "-" + id;
    if (::rename(making.c_str(), name.c_str()) != 0)
        return fail_errno(name);
    waiting_.emplace(name, Waiting{source, std::move(*made)});
    auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun).count();
    behind_request_ms_ = static_cast<int>(
        std::clamp<int64_t>(kBehindRequestMakings * took, kBehindRequestMs, kBehindRequestMsMax));
    return {};
}

// Those that were taken are somebody's; those that died are nobody's.
void PoolKeeper::drop_gone() {
    std::erase_if(waiting_, [](const auto& entry) {
        if (::access(entry.first.c_str(), F_OK) != 0)
            return true;
        pollfd dead = {entry.second.process.get(), POLLIN, 0};
        if (::poll(&dead, 1, 0) <= 0)
            return false;
        (void)clear_clone(entry.first);
        return true;
    });
}

void PoolKeeper::drain_watch() {
    alignas(inotify_event) char events[4096];
    while (::read(watch_.get(), events, sizeof(events)) > 0) {
    }
}

bool PoolKeeper::is_told_to_end() const {
    pollfd told = {signals_, POLLIN, 0};
    return ::poll(&told, 1, 0) > 0;
}

// Who ends a pool has patience for the making of one clone, not of a hundred.
Status PoolKeeper::fill() {
    while (count(CloneSource::parked) < spec_.parked && !is_told_to_end())
        TRY(make(CloneSource::parked));
    while (count(CloneSource::ready) < spec_.ready && !is_told_to_end())
        TRY(make(CloneSource::ready));
    return {};
}

// A zygote that was killed is started again, once: if that does not help, the log says why, and
// creating goes the cold way.
Status PoolKeeper::refill() {
    drop_gone();
    auto filled = fill();
    if (filled || filled.error().code != Code::unavailable)
        return filled;
    TRY(start_zygote(Clock::now() + kWorkerLimit));
    return fill();
}

// Whoever takes a clone relies on the host's table being as it should be. What was done to it is
// told in the log, behind the mending: by the time that anybody looks it is as it should be.
Status PoolKeeper::see_host_rules() {
    if (!host_ || !host_->rules_changed())
        return {};
    if (auto wrong = TRY(ensure_host_rules()); !wrong.empty())
        std::fprintf(stderr, "%s %s; loaded anew\n", timestamp_now().c_str(), wrong.c_str());
    return {};
}

// What was made for another host than this one is by now is given to nobody.
Status PoolKeeper::see_host_changes() {
    if (!host_)
        return {};
    (void)host_->addresses_changed();  // looked at below, whoever woke us
    auto rules = TRY(rules_now(TRY(complete_policy(*template_.network))));
    if (rules == rules_)
        return {};
    rules_ = std::move(rules);
    drop_all();
    return {};
}

void PoolKeeper::drop_all() {
    for (const auto& [name, clone] : waiting_) {
        std::string away = pool_files::kMaking + name;
        if (::rename(name.c_str(), away.c_str()) == 0)  // or somebody has just taken it
            (void)end_and_remove(away);
    }
}

// Requests come in bursts: the last one's clone first, then more for the next.
Result<bool> PoolKeeper::wait_for_quiet() {
    for (;;) {
        drain_watch();
        TRY(see_host_rules());
        pollfd next[] = {{signals_, POLLIN, 0},
                         {watch_.get(), POLLIN, 0},
                         {host_ ? host_->rules() : -1, POLLIN, 0}};
        int ready = ::poll(next, std::size(next), behind_request_ms_);
        if (next[0].revents != 0)
            return false;
        if (ready <= 0)
            return true;
    }
}

Status PoolKeeper::serve() {
    for (;;) {
        std::vector<pollfd> watched = {{signals_, POLLIN, 0},
                                       {zygote_->socket(), POLLIN, 0},
                                       {watch_.get(), POLLIN, 0},
                                       {host_ ? host_->rules() : -1, POLLIN, 0},
                                       {host_ ? host_->addresses() : -1, POLLIN, 0}};
        for (const auto& [name, clone] : waiting_)
            watched.push_back({clone.process.get(), POLLIN, 0});
        if (::poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR)
            return fail_errno("poll");
        if (!TRY(wait_for_quiet()))
            return {};
        if (watched[1].revents != 0)
            TRY(start_zygote(Clock::now() + kWorkerLimit));
        TRY(see_host_changes());
        TRY(refill());
    }
}

}  // namespace spore
