#include "hypervisor/jail/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>

#include "hypervisor/base/limits.h"
#include "hypervisor/jail/cgroup_v1.h"

namespace spore {

namespace {

constexpr std::string_view kParent = "/spore";

bool may_write(const std::string& path) {
    return ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
}

// To make a cgroup below `directory` and start a process there takes both: the kernel asks for the
// cgroup.procs of what is above the starter's cgroup and the new one (cgroups(7)).
bool may_divide(const std::string& directory) {
    return may_write(directory) && may_write(directory + "/cgroup.procs");
}

std::string file_text(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

bool has_word(const std::string& text, std::string_view word) {
    std::istringstream words(text);
    for (std::string each; words >> each;) {
        if (each == word)
            return true;
    }
    return false;
}

bool write_text(const std::string& path, const std::string& text) {
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    return file &&
           ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// The line of the v2 hierarchy: "0::/path".
Result<std::string> own_path(const std::string& file) {
    UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    char text[8192];
    ssize_t got = fd ? ::read(fd.get(), text, sizeof(text)) : -1;
    std::string_view rest(text, got < 0 ? 0 : static_cast<size_t>(got));
    while (!rest.empty()) {
        std::string_view line = rest.substr(0, rest.find('\n'));
        if (line.starts_with("0::/"))
            return std::string(line.substr(3));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    }
    return fail(Code::not_found, file + ": has no cgroup v2 in it");
}

// Controllers are the parent's to hand on, one by one: a write with one that is not there hands on
// none.
void hand_on_controllers(const std::string& directory) {
    std::string there = file_text(directory + "/cgroup.controllers");
    std::string handed = file_text(directory + "/cgroup.subtree_control");
    for (const char* controller : kCgroupControllers) {
        if (has_word(there, controller) && !has_word(handed, controller))
            (void)write_text(directory + "/cgroup.subtree_control", std::string("+") + controller);
    }
}

// The first cgroup of a host with a quota has the kernel rewrite its own code, which takes 2 ms,
// and the last one's end has it rewritten again. Nothing is ever in this one, and no sweep removes
// it.
void keep_quotas_on(const std::string& directory) {
    std::string holder = directory + "/.quota";
    if (::access((directory + "/cpu.max").c_str(), F_OK) != 0 ||
        (::mkdir(holder.c_str(), 0700) != 0 && errno != EEXIST))
        return hold_quota_v1(holder);
    (void)write_text(holder + "/cpu.max", "100000 100000");
}

std::string above(const CgroupPlace& place) {
    return place.directory().parent_path();
}

Result<UniqueFd> open_parent(const CgroupPlace& place) {
    std::string directory = place.directory();
    UniqueFd parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent && errno == ENOENT) {
        TRY(prepare_cgroup_place(place));
        parent.reset(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
    if (!parent)
        return fail_errno(directory);
    return parent;
}

// The one that the user named, which must be in a hierarchy that is there.
Result<CgroupPlace> wanted_place(const CgroupHost& host) {
    if (host.wanted == "none")
        return fail(Code::host_unsupported, "SPORE_CGROUP is 'none'");
    for (const std::string& mount : host.mounts) {
        bool below = host.wanted.starts_with(mount + "/") && host.wanted.size() > mount.size() + 1;
        if (below && ::access((mount + "/cgroup.controllers").c_str(), F_OK) == 0)
            return CgroupPlace{mount, host.wanted.substr(mount.size())};
    }
    return fail(Code::host_unsupported,
                "SPORE_CGROUP '" + host.wanted + "': is no directory of a cgroup v2 hierarchy");
}

Result<CgroupPlace> place_below(const CgroupHost& host, const std::string& mount) {
    if (may_divide(mount))
        return CgroupPlace{mount, std::string(kParent)};
    int error = errno;
    // Cgroups that are not above ours cannot be had: a process may not be started across.
    std::string own = TRY(own_path(host.self));
    bool inside = !own.starts_with("/..");  // else above what this cgroup namespace can name
    for (size_t end = own.find('/', 1); inside && own.size() > 1; end = own.find('/', end + 1)) {
        std::string candidate = own.substr(0, end);
        if (may_divide(mount + candidate))
            return CgroupPlace{mount, candidate + std::string(kParent)};
        if (end == std::string::npos)
            break;
    }
    return fail(Code::host_unsupported, mount + ": " + std::strerror(error) +
                                            ", and no cgroup from there to " + own +
                                            " has been delegated to this user");
}

}  // namespace

std::string CgroupHost::from_environment() {
    const char* wanted = std::getenv("SPORE_CGROUP");
    return wanted == nullptr ? "" : wanted;
}

Result<CgroupPlace> find_cgroup_place(const CgroupHost& host) {
    auto place = [&]() -> Result<CgroupPlace> {
        if (!host.wanted.empty())
            return wanted_place(host);
        for (const std::string& mount : host.mounts) {
            if (::access((mount + "/cgroup.controllers").c_str(), F_OK) == 0)
                return place_below(host, mount);
        }
        return fail(Code::host_unsupported,
                    "no cgroup v2 hierarchy is mounted at " + host.mounts.front());
    }();
    if (place && place->path.size() + limits::kCgroupNameBytesMax > limits::kCgroupTextBytesMax)
        return fail(Code::host_unsupported,
                    "the path of cgroup '" + place->path.substr(0, 60) + "...' is too long");
    return place;
}

Status prepare_cgroup_place(const CgroupPlace& place) {
    std::string directory = place.directory();
    hand_on_controllers(above(place));
    // Nobody else's to look into or to lock.
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
        return fail_errno(directory);
    hand_on_controllers(directory);
    keep_quotas_on(directory);
    return {};
}

std::vector<std::string> cgroup_controllers(const CgroupPlace& place) {
    std::string directory = place.directory();
    bool made = ::access(directory.c_str(), F_OK) == 0;
    std::string text = file_text(made ? directory + "/cgroup.subtree_control"
                                      : above(place) + "/cgroup.controllers");
    std::vector<std::string> found;
    for (const char* controller : kCgroupControllers) {
        if (has_word(text, controller))
            found.emplace_back(controller);
    }
    return found;
}

std::vector<std::string> missing_quota_controllers(const CgroupPlace& place) {
    auto has = cgroup_controllers(place);
    std::ranges::copy(cgroup_v1_controllers(place.directory()), std::back_inserter(has));
    std::vector<std::string> missing;
    std::ranges::copy_if(kQuotaControllers, std::back_inserter(missing), [&](const char* needed) {
        return std::ranges::find(has, needed) == has.end();
    });
    return missing;
}

Result<Cgroup> make_cgroup(const CgroupPlace& place, const std::string& name) {
    Cgroup cgroup;
    cgroup.unstarted = TRY(open_parent(place));
    cgroup.directory = place.directory() / name;
    cgroup.path = place.path + "/" + name;
    int locked = 0;
    do {
        locked = ::flock(cgroup.unstarted.get(), LOCK_SH);
    } while (locked != 0 && errno == EINTR);
    if (locked != 0 || ::mkdirat(cgroup.unstarted.get(), name.c_str(), 0700) != 0)
        return fail_errno(cgroup.directory.string());
    cgroup.handle.reset(
        ::openat(cgroup.unstarted.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!cgroup.handle)
        return fail_errno(cgroup.directory.string());
    return cgroup;
}

Status open_cgroup(const CgroupPlace& place, const Cgroup& cgroup) {
    for (const std::filesystem::path& directory : {place.directory(), cgroup.directory}) {
        if (::chmod((directory / "cgroup.procs").c_str(), 0222) != 0)
            return fail_errno((directory / "cgroup.procs").string());
    }
    return {};
}

void kill_cgroup(const std::filesystem::path& directory) {
    (void)write_text(directory / "cgroup.kill", "1");
}

bool remove_cgroup(const std::filesystem::path& directory) {
    return remove_cgroups_v1(directory) && (::rmdir(directory.c_str()) == 0 || errno != EBUSY);
}

size_t sweep_cgroups(const CgroupPlace& place) {
    std::unique_ptr<DIR, int (*)(DIR*)> parent(::opendir(place.directory().c_str()), ::closedir);
    if (!parent)
        return 0;
    size_t removed = 0;
    int fd = ::dirfd(parent.get());
    while (const dirent* entry = ::readdir(parent.get())) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        // Held for one only: whoever makes one waits for it.
        if (::flock(fd, LOCK_EX | LOCK_NB) != 0)
            break;  // one is being made just now: the rest is the next sweep's
        removed += remove_cgroups_v1(place.directory() / entry->d_name) &&
                   ::unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0;
        ::flock(fd, LOCK_UN);
    }
    return removed;
}

Result<std::string> cgroup_of(const std::string& process) {
    return own_path("/proc/" + process + "/cgroup");
}

}  // namespace spore
