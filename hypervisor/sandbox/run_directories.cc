#include "hypervisor/sandbox/run_directories.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

// Ours alone: where everyone may make directories, one of that name may be another's.
bool is_own_directory(const stdfs::path& path) {
    struct stat status = {};
    return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
           status.st_uid == ::geteuid();
}

bool is_plain_directory(const stdfs::path& path) {
    struct stat status = {};
    return ::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

// The first place in memory that we may write to; nothing if this host has none.
std::optional<stdfs::path> memory_place(const Home& home) {
    const char* user = std::getenv("XDG_RUNTIME_DIR");
    for (const stdfs::path& path :
         {home.root() / "run", stdfs::path(user != nullptr && *user == '/' ? user : "/run"),
          stdfs::path("/run"), stdfs::path("/dev/shm")}) {
        struct statfs status = {};
        if (::statfs(path.c_str(), &status) == 0 && status.f_type == TMPFS_MAGIC &&
            ::access(path.c_str(), W_OK) == 0)
            return path;
    }
    return std::nullopt;
}

// `link` becomes a link to `target`, in one step.
Status point(const stdfs::path& link, const stdfs::path& target) {
    stdfs::path fresh = link.string() + ".new";
    ::unlink(fresh.c_str());
    if (::symlink(target.c_str(), fresh.c_str()) != 0 || ::rename(fresh.c_str(), link.c_str()) != 0)
        return fail_errno(link.string());
    return {};
}

Status make_in_memory(const Home& home, const stdfs::path& place) {
    std::string directory = (place / "spore-XXXXXX").string();
    if (::mkdtemp(directory.data()) == nullptr)
        return fail_errno(directory);
    for (const stdfs::path& link : {home.sandboxes(), home.pools()}) {
        stdfs::path target = stdfs::path(directory) / link.filename();
        TRY(make_directory(target));
        TRY(point(link, target));
    }
    return {};
}

Status make_on_disk(const Home& home) {
    for (const stdfs::path& path : {home.sandboxes(), home.pools()}) {
        if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
            return fail_errno(path.string());
    }
    return {};
}

// Nobody's: the sandboxes that they were of are not even a name any more.
Status clear_disks(const Home& home) {
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(home.disks(), error))
        TRY(remove_tree(entry.path()));
    return {};
}

}  // namespace

Status make_run_directories(const Home& home) {
    auto good = [&] {
        return is_own_directory(home.sandboxes()) && is_own_directory(home.pools());
    };
    if (good())
        return {};
    UniqueFd lock(::open(home.root().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock || ::flock(lock.get(), LOCK_EX) != 0)
        return fail_errno(home.root().string());
    if (good())
        return {};  // somebody was quicker
    auto place = memory_place(home);
    bool plain = is_plain_directory(home.sandboxes()) || is_plain_directory(home.pools());
    if (plain || !place)
        return make_on_disk(home);
    TRY(clear_disks(home));
    return make_in_memory(home, *place);
}

}  // namespace spore
