#include "hypervisor/jail/capabilities.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "hypervisor/jail/cgroup.h"

namespace spore {

JailItem drop_capabilities() {
    JailItem item{"capabilities", false, {}};
    // The kernel says EINVAL past the last it knows.
    for (unsigned long capability = 0; capability < 64; capability++) {
        if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0)
            continue;
        if (errno != EINVAL)
            item.why = std::string("bounding set: ") + std::strerror(errno);
        break;
    }
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
    if (::syscall(SYS_capset, &header, none) != 0)
        item.why = std::string("capset: ") + std::strerror(errno);
    item.holds = item.why.empty();
    return item;
}

Status set_limits(const JailOptions& options, bool own_user, JailReport& report) {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fail_errno("PR_SET_NO_NEW_PRIVS");
    report.items.push_back({"no_new_privileges", true, {}});
    if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return fail_errno("PR_SET_DUMPABLE");
    report.items.push_back({"not_dumpable", true, {}});

    struct Limit {
        __rlimit_resource_t resource;
        const char* name;
        rlim_t most;
    };
    std::vector<Limit> limits = {
        {RLIMIT_CORE, "RLIMIT_CORE", 0},
        {RLIMIT_NOFILE, "RLIMIT_NOFILE", options.files_max},
        {RLIMIT_FSIZE, "RLIMIT_FSIZE", options.file_bytes_max},
        {RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE", 0},
        {RLIMIT_RTPRIO, "RLIMIT_RTPRIO", 0},
    };
    // Counted by user: without a namespace of its own it would be the sum of all jails.
    if (own_user)
        limits.push_back({RLIMIT_NPROC, "RLIMIT_NPROC", options.tasks_max});
    for (const Limit& limit : limits) {
        rlimit now = {};
        if (::getrlimit(limit.resource, &now) != 0)
            return fail_errno(limit.name);
        rlim_t most = std::min(limit.most, now.rlim_max);
        rlimit wanted = {most, most};
        if (::setrlimit(limit.resource, &wanted) != 0)
            return fail_errno(limit.name);
    }
    report.items.push_back(
        {"rlimits", own_user,
         own_user ? "" : "RLIMIT_NPROC is not set: it would count the tasks of all jails"});
    return {};
}

Status close_others(const JailOptions& options, JailReport& report) {
    if (options.keep)
        TRY(close_inherited(*options.keep));
    report.items.push_back({"descriptors", true, {}});
    return {};
}

Status close_inherited(std::span<const int> kept_ones) {
    std::vector<int> keep(kept_ones.begin(), kept_ones.end());
    std::ranges::sort(keep);
    unsigned next = 0;
    auto close_up_to = [&](unsigned last) -> Status {
        if (next <= last && ::syscall(SYS_close_range, next, last, 0) != 0)
            return fail_errno("close_range");
        return {};
    };
    for (int fd : keep) {
        if (fd < 0)
            continue;
        auto kept = static_cast<unsigned>(fd);
        if (kept > next)
            TRY(close_up_to(kept - 1));
        next = std::max(next, kept + 1);
    }
    return close_up_to(~0u);
}

JailItem pid_item() {
    if (::getpid() == 1)
        return {"pid", true, {}};
    return {"pid", false, "not the first process of a PID namespace"};
}

JailItem own_user_item(const JailOptions& options) {
    return {"own_user", options.why_shared_user.empty(), options.why_shared_user};
}

namespace {
bool cores_have_threads = true;
}

void look_at_threads_of_cores() {
    char active = '1';
    UniqueFd file(::open("/sys/devices/system/cpu/smt/active", O_RDONLY | O_CLOEXEC));
    cores_have_threads = file && ::read(file.get(), &active, 1) == 1 && active == '1';
}

JailItem core_scheduling_item() {
    // ENODEV: the kernel can, and this host's cores have one thread each.
    bool held =
        ::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PR_SCHED_CORE_SCOPE_THREAD_GROUP, 0) == 0 ||
        errno == ENODEV || !cores_have_threads;
    return {"core_scheduling", held,
            held ? "" : std::string("PR_SCHED_CORE: ") + std::strerror(errno)};
}

JailItem cgroup_item(const std::string& wanted) {
    if (!wanted.starts_with("/"))
        return {"cgroup", false, wanted};
    auto path = cgroup_of("self");
    if (!path)
        return {"cgroup", false, path.error().message};
    if (*path != wanted)
        return {"cgroup", false, "the process is in " + *path + ", not in " + wanted};
    return {"cgroup", true, {}, wanted};
}

}  // namespace spore
