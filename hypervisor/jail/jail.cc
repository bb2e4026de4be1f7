#include "hypervisor/jail/jail.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hypervisor/jail/capabilities.h"
#include "hypervisor/jail/empty_root.h"
#include "hypervisor/jail/namespaces.h"

namespace spore {

namespace {

// PR_SET_MEMORY_MERGE, since Linux 6.4.
constexpr int kSetMemoryMerge = 67;

std::string reason(const char* what, int error = errno) {
    return std::string(what) + ": " + std::strerror(error);
}

// The namespaces that one unshare() makes, and their names in the report.
struct Kind {
    const char* name;
    int flag;
};
constexpr Kind kKinds[] = {
    {"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS},    {"ipc", CLONE_NEWIPC},
    {"uts", CLONE_NEWUTS},   {"network", CLONE_NEWNET},
};

// Steps of enter_jail(), in their order. What is opened by name is opened before the root goes.
class Entry {
  public:
    explicit Entry(const JailOptions& options) : options_(options) {}

    Result<JailReport> run() {
        // No effect on a process with one thread, EINVAL for others (unshare(2)).
        if (::unshare(CLONE_THREAD) != 0)
            return fail_errno("entering the jail with more than one thread");
        ::mallopt(M_ARENA_MAX, 1);                   // see jail.h
        (void)::prctl(kSetMemoryMerge, 0, 0, 0, 0);  // a starter's MemoryKSM= would be inherited
        ::tzset();  // reads /etc/localtime, which even gmtime() would do later
        proc_.reset(::open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC));
        JailItem cgroup = cgroup_item(options_.cgroup);
        look_at_threads_of_cores();
        JailItem cores = core_scheduling_item();
        join_pins();
        become_user();
        make_namespaces();
        if (made_ & CLONE_NEWUSER)
            write_maps();
        empty_root();
        report_.items.push_back(pid_item());
        report_.items.push_back(drop_capabilities());
        proc_.reset();
        TRY(set_limits(options_, (made_ & CLONE_NEWUSER) != 0 || options_.why_shared_user.empty(),
                       report_));
        TRY(close_others(options_, report_));
        report_.items.push_back(std::move(cgroup));
        report_.items.push_back(own_user_item(options_));
        report_.items.push_back(std::move(cores));
        return std::move(report_);
    }

  private:
    void join_pins() {
        Pins pins = open_pins();
        joined_network_ = pins.network && ::setns(pins.network.get(), CLONE_NEWNET) == 0;
        // From here on "/" is the empty root, and names are of no use.
        joined_root_ = pins.root && ::setns(pins.root.get(), CLONE_NEWNS) == 0;
    }

    // Capabilities are kept until the namespaces are made: where the host refuses user namespaces,
    // they are what makes the others.
    void become_user() {
        JailItem item{"unprivileged_user", true, {}};
        if (::geteuid() == 0) {
            ::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
            if (::setgroups(0, nullptr) != 0 ||
                ::setresgid(options_.user, options_.user, options_.user) != 0 ||
                ::setresuid(options_.user, options_.user, options_.user) != 0) {
                item.why = reason("becoming another user");
                item.holds = false;
            }
            // The change took the right to write our own maps.
            ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        }
        report_.items.push_back(std::move(item));
    }

    void make_namespaces() {
        outer_user_ = ::geteuid();
        outer_group_ = ::getegid();
        int all = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
        if (options_.user_namespace)
            all |= CLONE_NEWUSER;
        else
            raise_capabilities();
        if (!joined_network_)
            all |= CLONE_NEWNET;
        if (::unshare(all) == 0) {
            made_ = all;
            for (const Kind& kind : kKinds) {
                if (kind.flag != CLONE_NEWUSER || options_.user_namespace)
                    report_.items.push_back({kind.name, true, {}});
            }
            return;
        }
        // One by one, to say which cannot be had. Without a user namespace they take capabilities.
        for (const Kind& kind : kKinds) {
            if (kind.flag == CLONE_NEWUSER && !options_.user_namespace)
                continue;
            JailItem item{kind.name, true, {}};
            if (kind.flag == CLONE_NEWNET && joined_network_) {
                // as good as one of our own
            } else if (::unshare(kind.flag) == 0) {
                made_ |= kind.flag;
            } else if (kind.flag != CLONE_NEWNS || !joined_root_) {
                item.holds = false;
                item.why = reason("unshare");
            }
            if (kind.flag == CLONE_NEWUSER && !item.holds)
                raise_capabilities();
            report_.items.push_back(std::move(item));
        }
    }

    static void raise_capabilities() {
        __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
        if (::syscall(SYS_capget, &header, data) != 0)
            return;
        for (auto& part : data)
            part.effective = part.permitted;
        ::syscall(SYS_capset, &header, data);
    }

    // user_namespaces(7): without capabilities outside, one line, our own ID, and no setgroups.
    void write_maps() {
        auto put = [&](const char* file, const std::string& text) {
            UniqueFd fd(::openat(proc_.get(), file, O_WRONLY | O_CLOEXEC));
            if (!fd || ::write(fd.get(), text.data(), text.size()) < 0)
                unmapped_ = reason(file);
        };
        auto line = [](unsigned id) {
            return std::to_string(id) + " " + std::to_string(id) + " 1\n";
        };
        put("setgroups", "deny");
        put("uid_map", line(outer_user_));
        put("gid_map", line(outer_group_));
        report_.items.push_back({"id_maps", unmapped_.empty(), unmapped_});
    }

    void empty_root() {
        JailItem item{"empty_root", true, {}};
        if (!joined_root_) {
            item.holds = false;
            if ((made_ & CLONE_NEWNS) == 0) {
                item.why = "no mount namespace";
            } else if (auto made = enter_empty_root(); !made) {
                item.why = made.error().message;
            } else {
                item.holds = true;
            }
        }
        report_.items.push_back(std::move(item));
    }

    const JailOptions& options_;
    JailReport report_;
    UniqueFd proc_;
    bool joined_network_ = false;
    bool joined_root_ = false;
    int made_ = 0;
    unsigned outer_user_ = 0;  // as the parent namespace knows them
    unsigned outer_group_ = 0;
    std::string unmapped_;
};

JailReport kept_report;

}  // namespace

const JailReport& jail_report() {
    return kept_report;
}

void keep_report(const JailReport& report) {
    kept_report = report;
}

void keep_item(JailItem item) {
    std::erase_if(kept_report.items, [&](const JailItem& old) { return old.name == item.name; });
    kept_report.items.push_back(std::move(item));
}

bool JailReport::holds(std::string_view name) const {
    for (const JailItem& item : items) {
        if (item.name == name)
            return item.holds;
    }
    return false;
}

std::string JailReport::missing() const {
    std::string text;
    for (const JailItem& item : items) {
        if (item.holds)
            continue;
        text += (text.empty() ? "" : "; ") + item.name + ": " + item.why;
    }
    return text;
}

Result<JailReport> enter_jail(const JailOptions& options) {
    auto report = TRY(Entry(options).run());
    keep_report(report);
    return report;
}

// Its parent's mount namespace was an empty root, and so is its copy; its network namespace is the
// parent's. It has no /proc to write ID maps in: every ID of its user namespace is unmapped, which
// is the least a process can be.
Result<JailReport> enter_worker_jail(const JailOptions& options) {
    JailReport report;
    for (const char* name :
         {"unprivileged_user", "user", "mount", "ipc", "uts", "network", "empty_root"})
        report.items.push_back({name, true, {}});
    report.items.push_back(pid_item());
    report.items.push_back(drop_capabilities());
    TRY(set_limits(options, true, report));
    TRY(close_others(options, report));
    // Here nobody could look; its parent knows how it was forked.
    bool own_cgroup = options.cgroup.starts_with("/");
    report.items.push_back(
        {"cgroup", own_cgroup, own_cgroup ? "" : options.cgroup, own_cgroup ? options.cgroup : ""});
    report.items.push_back(own_user_item(options));
    report.items.push_back(core_scheduling_item());
    keep_report(report);
    return report;
}

}  // namespace spore
