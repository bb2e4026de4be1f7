#include "agent/control_group.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <charconv>
#include <csignal>
#include <memory>
#include <set>

namespace spore {

namespace {

// Groups within groups, of a container engine in the guest: deeper ones are left to cgroup.kill.
constexpr int kGroupDepthMax = 16;
// Until a round finds nobody new. With the group frozen two are enough; a kernel that does not
// freeze, and a fork bomb in it, must not keep the agent here for ever.
constexpr int kRoundsMax = 64;

Status write_to(int directory, const char* name, std::string_view content) {
    UniqueFd file(::openat(directory, name, O_WRONLY | O_CLOEXEC));
    if (!file || ::write(file.get(), content.data(), content.size()) < 0)
        return fail_errno(std::string("control group: ") + name);
    return {};
}

// Calls `visit` with the name of every directory in this one.
template <typename Visit>
void for_each_below(int directory, Visit visit) {
    UniqueFd list(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::unique_ptr<DIR, int (*)(DIR*)> entries(list ? ::fdopendir(list.get()) : nullptr,
                                                ::closedir);
    if (!entries)
        return;
    (void)list.release();
    while (const dirent* entry = ::readdir(entries.get())) {
        const std::string_view name = entry->d_name;
        if (entry->d_type == DT_DIR && name != "." && name != "..")
            visit(entry->d_name);
    }
}

// Sends `signal` to all that have not had it yet; whether there were any.
bool signal_new(int directory, int signal, std::set<pid_t>& told, int depth) {
    bool found = false;
    UniqueFd file(::openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC));
    std::unique_ptr<FILE, int (*)(FILE*)> lines(file ? ::fdopen(file.get(), "r") : nullptr,
                                                ::fclose);
    if (lines)
        (void)file.release();
    int pid = 0;
    while (lines && ::fscanf(lines.get(), "%d", &pid) == 1) {
        // 0: it is in no PID namespace of ours.
        if (pid > 0 && told.insert(pid).second) {
            ::kill(pid, signal);
            found = true;
        }
    }
    if (depth == kGroupDepthMax)
        return found;
    for_each_below(directory, [&](const char* name) {
        UniqueFd below(::openat(directory, name, O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (below)
            found |= signal_new(below.get(), signal, told, depth + 1);
    });
    return found;
}

bool remove_tree(int parent, const char* name, int depth) {
    if (::unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return true;
    if (errno != EBUSY || depth == kGroupDepthMax)
        return false;
    UniqueFd directory(::openat(parent, name, O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory)
        return false;
    for_each_below(directory.get(),
                   [&](const char* below) { remove_tree(directory.get(), below, depth + 1); });
    return ::unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

}  // namespace

Result<ControlGroup> ControlGroup::create(int parent, const std::string& name) {
    // One of that name is of an agent that was here before.
    if (::mkdirat(parent, name.c_str(), 0755) != 0 && errno != EEXIST)
        return fail_errno("control group '" + name + "'");
    UniqueFd directory(::openat(parent, name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory)
        return fail_errno("control group '" + name + "'");
    return ControlGroup(parent, name, std::move(directory));
}

Status ControlGroup::signal(int signal) const {
    // Linux 5.14: atomic.
    if (signal == SIGKILL && write_to(directory_.get(), "cgroup.kill", "1"))
        return {};
    // Frozen, nobody gets to fork once more; this asks for it and does not wait until all are.
    const bool freezes = write_to(directory_.get(), "cgroup.freeze", "1").has_value();
    std::set<pid_t> told;
    bool more = true;
    for (int round = 0; more && round < kRoundsMax; ++round)
        more = signal_new(directory_.get(), signal, told, 0);
    if (freezes)
        TRY(write_to(directory_.get(), "cgroup.freeze", "0"));
    if (more)
        return fail(Code::unavailable,
                    "control group '" + name_ + "': forks faster than it can be signalled");
    return {};
}

bool ControlGroup::remove() {
    return remove_tree(parent_, name_.c_str(), 0);
}

}  // namespace spore
