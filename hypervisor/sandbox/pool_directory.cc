#include "hypervisor/sandbox/pool_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "hypervisor/sandbox/cgroup_spot.h"
#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/sandbox_remains.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

// Of the open file, not of the process: flock(2) would do, but cannot be asked whose it is without
// taking it.
bool set_lock(int fd, short type) {
    struct flock wanted = {};
    wanted.l_type = type;
    return ::fcntl(fd, F_OFD_SETLK, &wanted) == 0;
}

}  // namespace

bool is_clone(const std::string& name, CloneSource source) {
    return name.starts_with(std::string(source_name(source)) + "-");
}

std::optional<KeeperLock> KeeperLock::take(const stdfs::path& directory, bool create) {
    stdfs::path path = directory / pool_files::kLock;
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600));
    struct stat locked = {}, named = {};
    if (!fd || !set_lock(fd.get(), F_WRLCK))
        return std::nullopt;
    KeeperLock lock(std::move(fd));
    // Or it was that of a pool which is removed by now.
    if (::fstat(lock.fd_.get(), &locked) != 0 || ::stat(path.c_str(), &named) != 0 ||
        locked.st_ino != named.st_ino)
        return std::nullopt;
    return lock;
}

// Closing is not enough, see DirectoryLock.
KeeperLock::~KeeperLock() {
    if (fd_)
        set_lock(fd_.get(), F_UNLCK);
}

bool keeper_lives(const stdfs::path& directory) {
    UniqueFd fd(::open((directory / pool_files::kLock).c_str(), O_RDWR | O_CLOEXEC));
    if (!fd)
        return false;
    struct flock held = {};
    held.l_type = F_WRLCK;
    return ::fcntl(fd.get(), F_OFD_GETLK, &held) == 0 && held.l_type != F_UNLCK;
}

// What is locked is somebody's who has not yet given it its new name, or has.
Status clear_clone(const stdfs::path& clone) {
    if (auto lock = DirectoryLock::take(clone); lock && lock->holds(clone))
        return remove_clone(clone);
    return {};
}

Status clear_pool(const stdfs::path& directory) {
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(directory, error)) {
        std::string name = entry.path().filename();
        if (is_clone(name, CloneSource::parked) || is_clone(name, CloneSource::ready))
            TRY(clear_clone(entry.path()));
        else if (name.starts_with(pool_files::kMaking))
            TRY(remove_clone(entry.path()));
    }
    return {};
}

Status clear_if_abandoned_pool(const stdfs::path& directory) {
    auto lock = KeeperLock::take(directory, false);
    if (!lock && stdfs::exists(directory / pool_files::kLock))
        return {};
    return clear_pool(directory);
}

Status remove_pool(const stdfs::path& directory) {
    auto lock = KeeperLock::take(directory, true);
    if (!lock)
        return fail(Code::unavailable, directory.string() + ": has a keeper");
    stdfs::path cgroup = cgroup_of_directory(directory);  // the zygote's
    constexpr int kTries = 1000;
    for (int tries = 0; tries < kTries; tries++) {
        TRY(clear_pool(directory));
        std::error_code error;
        for (const auto& entry : stdfs::directory_iterator(directory, error)) {
            if (entry.is_symlink(error) || !entry.is_directory(error))
                stdfs::remove(entry.path(), error);
        }
        if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) {
            if (!cgroup.empty())
                (void)remove_cgroup(cgroup);
            return {};
        }
        if (errno != ENOTEMPTY)
            return fail_errno(directory.string());
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return fail(Code::unavailable, directory.string() + ": clones of it are being taken");
}

}  // namespace spore
