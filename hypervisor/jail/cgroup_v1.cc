#include "hypervisor/jail/cgroup_v1.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace spore {

namespace stdfs = std::filesystem;

namespace {

// Where the v2 hierarchy is mounted beside others, here and everywhere (systemd's hybrid layout).
constexpr std::string_view kBeside = "/unified/";
constexpr const char* kTasks = "tasks";

// Beside the hierarchies of `directory`; empty: there are none.
std::string_view above_hierarchies(std::string_view directory) {
    size_t found = directory.find(kBeside);
    return found == std::string_view::npos ? std::string_view() : directory.substr(0, found);
}

template <typename Visit>
void for_each_v1(const stdfs::path& directory, Visit&& visit) {
    if (above_hierarchies(directory.native()).empty())
        return;
    for (const char* controller : kQuotaControllers)
        visit(cgroup_v1_of(directory, controller));
}

bool is_v1(const stdfs::path& directory) {
    return ::access((directory / kTasks).c_str(), F_OK) == 0;
}

// With its parent, if that lacks. False: errno says why.
bool make_one(const stdfs::path& path) {
    if (::mkdir(path.c_str(), 0700) == 0)
        return true;
    stdfs::path parent = path.parent_path();
    return errno == ENOENT && is_v1(parent.parent_path()) &&
           (::mkdir(parent.c_str(), 0700) == 0 || errno == EEXIST) &&
           ::mkdir(path.c_str(), 0700) == 0;
}

// False: somebody is in it.
bool remove_one(const stdfs::path& path) {
    return ::rmdir(path.c_str()) == 0 || errno != EBUSY;
}

bool set_effective_user(unsigned user) {
    // This thread's alone: glibc's seteuid() is the whole process's.
    return ::syscall(SYS_setresuid, -1, user, -1) == 0;
}

// Whose right it is to move a process is asked of who opened the file (cgroup-v1's procs_write).
UniqueFd open_tasks(const stdfs::path& directory, unsigned user) {
    UniqueFd above(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!above)
        return above;
    bool other = user != 0 && ::geteuid() == 0;
    if (other && (::chmod(directory.c_str(), 0711) != 0 ||
                  ::fchownat(above.get(), kTasks, user, user, 0) != 0 || !set_effective_user(user)))
        return {};
    UniqueFd tasks(::openat(above.get(), kTasks, O_WRONLY | O_CLOEXEC));
    if (other && !set_effective_user(0))
        std::abort();  // the kernel never refuses what is the saved user
    return tasks;
}

}  // namespace

stdfs::path cgroup_v1_of(const stdfs::path& directory, std::string_view controller) {
    std::string_view all = directory.native();
    std::string_view above = above_hierarchies(all);
    if (above.empty())
        return {};
    std::string path(above);
    path.append("/").append(controller).append("/");
    return path.append(all.substr(above.size() + kBeside.size()));
}

std::vector<std::string> cgroup_v1_controllers(const stdfs::path& parent) {
    std::vector<std::string> found;
    for (const char* controller : kQuotaControllers) {
        stdfs::path here = cgroup_v1_of(parent, controller);
        if (here.empty())
            break;
        bool made = ::access(here.c_str(), F_OK) == 0;
        stdfs::path least = made ? here : here.parent_path();
        if (is_v1(least) && ::faccessat(AT_FDCWD, least.c_str(), W_OK, AT_EACCESS) == 0)
            found.emplace_back(controller);
    }
    return found;
}

void hold_quota_v1(const stdfs::path& holder) {
    stdfs::path path = cgroup_v1_of(holder, "cpu");
    if (path.empty() || (!make_one(path) && errno != EEXIST))
        return;
    UniqueFd quota(::open((path / "cpu.cfs_quota_us").c_str(), O_WRONLY | O_CLOEXEC));
    constexpr std::string_view kOneProcessor = "100000";
    [[maybe_unused]] ssize_t written =
        quota ? ::write(quota.get(), kOneProcessor.data(), kOneProcessor.size()) : -1;
}

bool make_cgroups_v1(const stdfs::path& directory) {
    bool any = false;
    for_each_v1(directory, [&](const stdfs::path& path) { any |= make_one(path); });
    return any;
}

std::vector<UniqueFd> open_cgroups_v1(const stdfs::path& directory, unsigned user) {
    std::vector<UniqueFd> opened;
    for_each_v1(directory, [&](const stdfs::path& path) {
        if (auto tasks = open_tasks(path, user))
            opened.push_back(std::move(tasks));
    });
    return opened;
}

void enter_cgroups_v1(const int* tasks, size_t count) {
    for (size_t index = 0; index < count; index++) {
        [[maybe_unused]] ssize_t written = ::write(tasks[index], "0", 1);
    }
}

void drop_unused_cgroups_v1(const stdfs::path& directory) {
    for_each_v1(directory, [](const stdfs::path& path) { (void)remove_one(path); });
}

bool remove_cgroups_v1(const stdfs::path& directory) {
    bool removed = true;
    // One that is in use is one call: a sweep looks at all of them.
    for_each_v1(directory, [&](const stdfs::path& path) { removed = removed && remove_one(path); });
    return removed;
}

}  // namespace spore
