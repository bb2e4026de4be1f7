// spore-vmm: one VM, one process (or a zygote that forks such). Reads its options, opens what they
// name, and only then reads what snapshots hold.

#include <fcntl.h>
#include <pthread.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/one_line.h"
#include "hypervisor/base/tell_ready.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/jail/namespaces.h"
#include "hypervisor/jail/own_user.h"
#include "hypervisor/vmm/options.h"
#include "hypervisor/vmm/vmm.h"
#include "hypervisor/vmm/zygote.h"

namespace spore {
namespace {

void start_logging(const std::string& level) {
    auto logger = std::make_shared<spdlog::logger>(
        "spore-vmm", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_level(spdlog::level::from_str(level));
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
    spdlog::set_default_logger(logger);
    ::tzset();  // glibc opens /etc/localtime at the first time that is written; a jail has none
}

// Eight megabytes, the usual, have room for huge pages, and a host that gives them to all who have
// (/sys/kernel/mm/transparent_hugepage/enabled: always) makes one of a thread's first word: 2 MiB
// cleared on the way, and held by every clone.
void limit_thread_stacks() {
    constexpr size_t kStackBytes = 1 << 20;
    pthread_attr_t attributes;
    ::pthread_attr_init(&attributes);
    ::pthread_attr_setstacksize(&attributes, kStackBytes);
    (void)::pthread_setattr_default_np(&attributes);  // no more than dearer if it fails
    ::pthread_attr_destroy(&attributes);
}

void log_failure(const std::string& line) {
    spdlog::warn("{}", one_line(line));
}

struct Opened {
    Kvm kvm;
    SnapshotFiles snapshot;
    VmmFiles files;
};

Result<VmmFiles> open_files(const VmmOptions& options) {
    VmmFiles files;
    files.console = TRY(Console::open_output(options.serial));
    files.clone = TRY(open_clone_files(options.machine, options.jail));
    if (!options.control_path.empty()) {
        files.control = TRY(bind_control_socket(options.control_path));
        if (!options.jail) {  // from where nothing can be removed
            files.control_path = options.control_path;
            files.made.add(options.control_path);
        }
    }
    return files;
}

Result<WorkingSetFiles> open_working_set(const std::string& path) {
    WorkingSetFiles files;
    files.pagemap.reset(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    if (!files.pagemap)
        return fail_errno("/proc/self/pagemap");
    files.file.reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!files.file)
        return fail_errno(path);
    return files;
}

Result<Opened> open_all(const VmmOptions& options, StageTimer& stages) {
    auto kvm = TRY(Kvm::open());
    auto snapshot =
        TRY(open_snapshot(options.restore_directory, options.machine.disks, options.sealed));
    auto files = TRY(open_files(options));
    if (!options.working_set_path.empty()) {
        files.working_set = TRY(open_working_set(options.working_set_path));
        forget_cached_image(snapshot.memory.get());
        snapshot.exact_faults = true;
    }
    stages.mark("open");
    return Opened{std::move(kvm), std::move(snapshot), std::move(files)};
}

// A user of this process's own, and its directory's from here on, as long as the claim is held. No
// claim: it stays who it is.
Result<UniqueFd> take_own_user(JailOptions& jail, Role role) {
    auto user = TRY(claim_user_if_root());
    if (!user) {
        jail.why_shared_user = ::geteuid() != 0 ? "it was not started by root"
                                                : "SPORE_UIDS is 'none', or not to be had here";
        return UniqueFd();
    }
    jail.user = user->id;
    jail.why_shared_user.clear();
    jail.user_namespace = role != Role::zygote;
    if (role != Role::zygote && ::chown(".", user->id, user->id) != 0)
        return fail_errno("giving the directory to user " + std::to_string(user->id));
    return std::move(user->claim);
}

// Everything has been opened; nothing that a guest or a snapshot's maker has written was read.
// Returns the claim to the process's user, to be held until its end.
Result<UniqueFd> close_jail(const VmmOptions& options, Role role, StageTimer& stages) {
    JailOptions jail;
    jail.files_max = limits::kRingFiles + 256;
    jail.file_bytes_max = limits::kLayeredDiskBytesMax;
    jail.tasks_max = role == Role::zygote ? limits::kZygoteTasksMax : limits::kVmmTasksMax;
    if (!options.cgroup.empty())
        jail.cgroup = options.cgroup;
    auto claim = TRY(take_own_user(jail, role));
    auto report = TRY(enter_jail(jail));
    if (!report.missing().empty())
        spdlog::info("the jail lacks: {}", report.missing());
    stages.mark("jail");
    TRY(restrict_thread(role));
    stages.mark("filter");
    return claim;
}

// The kernel counts the rings' memory by user, and workers without users of their own are all the
// same one: 8 MiB, the usual limit, is 682 of them. None can lock memory for itself (mlock is on no
// list).
void lift_locked_memory_limit() {
    constexpr rlimit kNone = {RLIM_INFINITY, RLIM_INFINITY};
    (void)::setrlimit(RLIMIT_MEMLOCK, &kNone);  // only root can; else the ring says what was short
}

// A zygote is ready when the snapshot is known to be good.
Result<int> zygote(const VmmOptions& options, UniqueFd ready) {
    UniqueFd keeper(options.zygote_fd), claim;
    auto kvm = Kvm::open();
    auto snapshot = [&]() -> Result<LoadedSnapshot> {
        TRY(Status(kvm ? Status() : std::unexpected(kvm.error())));
        auto files =
            TRY(open_snapshot(options.restore_directory, options.machine.disks, options.sealed));
        if (options.jail) {
            prepare_fork_jailed();
            lift_locked_memory_limit();
            StageTimer stages;
            claim = TRY(close_jail(options, Role::zygote, stages));
        }
        return load_snapshot(std::move(files), *kvm, false);
    }();
    tell_ready(std::move(ready), snapshot ? Status() : std::unexpected(snapshot.error()));
    if (!snapshot)
        return std::unexpected(std::move(snapshot).error());
    return run_zygote(std::move(*kvm), std::move(*snapshot), std::move(keeper), std::move(claim),
                      log_failure);
}

Result<int> logged(const Vmm& vmm, Result<int> status) {
    if (status)
        spdlog::info("the VM ended: {}", reason_name(vmm.exit().reason));
    return status;
}

Result<int> restore(const VmmOptions& options, StageTimer& stages, UniqueFd ready) {
    Vmm vmm(stages, log_failure);
    UniqueFd claim;
    auto opened = open_all(options, stages);
    auto snapshot = [&]() -> Result<LoadedSnapshot> {
        TRY(Status(opened ? Status() : std::unexpected(opened.error())));
        if (options.jail) {
            TRY(vmm.begin());
            claim = TRY(close_jail(options, Role::loop, stages));
        }
        return load_snapshot(std::move(opened->snapshot), opened->kvm, options.cpu_checked);
    }();
    stages.mark("load");
    if (!snapshot) {
        tell_ready(std::move(ready), std::unexpected(snapshot.error()));
        return std::unexpected(std::move(snapshot).error());
    }
    return logged(
        vmm,
        vmm.restore(std::move(opened->kvm), std::move(*snapshot), std::move(opened->files),
                    options.start_paused ? CloneStart::built : CloneStart::run, std::move(ready)));
}

Result<int> run(const VmmOptions& options) {
    StageTimer stages;
    if (options.stage_times)
        stages.start();
    stages.mark("main");
    // What is open from here on is ours; the jail keeps all of it.
    if (options.jail) {
        std::vector<int> kept = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, options.ready_fd,
                                 options.zygote_fd};
        for (const NetworkConfig& network : options.machine.networks)
            kept.push_back(network.tap_fd);
        TRY(close_inherited(kept));
    }
    UniqueFd ready(options.ready_fd);
    if (options.zygote_fd >= 0)
        return zygote(options, std::move(ready));
    if (!options.restore_directory.empty())
        return restore(options, stages, std::move(ready));
    Vmm vmm(stages, log_failure);
    return logged(vmm, vmm.boot(options, std::move(ready)));
}

int main_with(int argc, char** argv) {
    // As `spore run` we speak in its name.
    const char* name = std::string_view(argv[0]) == "spore run" ? "spore" : "spore-vmm";
    auto report = [&](const Error& error) {
        std::fprintf(stderr, "%s: %s\n", name, one_line(error.message).c_str());
        return exit_status(error.code);
    };
    auto options = parse_vmm_options(argc, argv);
    if (!options)
        return report(options.error());
    if (options->help) {
        std::printf("%s [OPTIONS]\n\n%s", name, std::string(vmm_help()).c_str());
        return 0;
    }
    start_logging(options->log_level);
    limit_thread_stacks();
    options->machine.interactive_console = options->serial == "stdio";
    auto status = run(*options);
    return status ? *status : report(status.error());
}

}  // namespace
}  // namespace spore

int main(int argc, char** argv) {
    return spore::main_with(argc, argv);
}
