#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "devices/block/disk.h"

namespace spore {

namespace {

std::string quoted(const std::string& path) {
    return "disk '" + path + "'";
}

int try_lock(int fd, short type) {
    struct flock whole = {};  // start 0, length 0: the whole file, however it grows
    whole.l_type = type;
    whole.l_whence = SEEK_SET;
    return ::fcntl(fd, F_OFD_SETLK, &whole);
}

// A killed VMM's ring lets go of its files a little after the process is gone (the kernel tears
// rings down in a work queue), so a lock that is held gets a moment to go away.
Status lock(int fd, bool exclusive, const std::string& path) {
    using namespace std::chrono_literals;
    for (int attempt = 0;; attempt++) {
        if (try_lock(fd, exclusive ? F_WRLCK : F_RDLCK) == 0)
            return {};
        if (errno != EAGAIN && errno != EACCES)
            return fail_errno("locking " + quoted(path));
        if (attempt == 5)
            return fail(Code::unavailable, quoted(path) + ": already in use by another VM" +
                                               (exclusive ? "" : ", which writes it"));
        std::this_thread::sleep_for(10ms);
    }
}

Result<uint64_t> size_of(int fd, const std::string& path) {
    struct stat status = {};
    if (::fstat(fd, &status) < 0)
        return fail_errno("fstat of " + quoted(path));
    if (S_ISDIR(status.st_mode))
        return fail(Code::invalid_argument,
                    quoted(path) + ": is a directory; a file or block device is due");
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return fail(Code::invalid_argument, quoted(path) + ": is no file or block device");
    off_t end = ::lseek(fd, 0, SEEK_END);
    if (end < 0)
        return fail_errno("lseek in " + quoted(path));
    return static_cast<uint64_t>(end);
}

}  // namespace

Result<DiskFile> open_disk_file(const std::string& path, DiskAccess access) {
    if (path.empty())
        return fail(Code::invalid_argument, "disk: path is empty");
    bool writable = access == DiskAccess::read_write;
    // O_NONBLOCK: a FIFO must not hold us up before it can be refused.
    DiskFile file;
    file.fd =
        UniqueFd(::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK));
    if (!file.fd && errno == EISDIR)
        return fail(Code::invalid_argument,
                    quoted(path) + ": is a directory; a file or block device is due");
    if (!file.fd)
        return fail_errno(quoted(path));
    file.path = path;
    file.writable = writable;
    file.bytes = TRY(size_of(file.fd.get(), path));
    if (file.bytes == 0 || file.bytes % kSectorBytes != 0)
        return fail(Code::invalid_argument, quoted(path) + ": size is " +
                                                std::to_string(file.bytes) +
                                                " bytes; a multiple of 512 above 0 is due");
    TRY(lock(file.fd.get(), writable, path));
    return file;
}

Result<DiskFile> create_disk_file(const std::string& path, uint64_t bytes) {
    auto file = TRY(make_disk_file(path));
    if (auto sized = size_disk_file(file, bytes); !sized) {
        ::unlink(path.c_str());
        return std::unexpected(std::move(sized).error());
    }
    return file;
}

Result<DiskFile> make_disk_file(const std::string& path) {
    DiskFile file;
    file.fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file.fd)
        return fail_errno(quoted(path));
    if (auto locked = lock(file.fd.get(), true, path); !locked) {
        ::unlink(path.c_str());
        return std::unexpected(std::move(locked).error());
    }
    file.path = path;
    file.writable = true;
    return file;
}

Status size_disk_file(DiskFile& file, uint64_t bytes) {
    if (bytes == 0 || bytes % kSectorBytes != 0 || bytes > INT64_MAX)
        return fail(Code::invalid_argument, quoted(file.path) + ": size is " +
                                                std::to_string(bytes) +
                                                " bytes; a multiple of 512 above 0 is due");
    if (::ftruncate(file.fd.get(), static_cast<off_t>(bytes)) < 0)
        return fail_errno("making " + quoted(file.path) + " " + std::to_string(bytes) +
                          " bytes long");
    file.bytes = bytes;
    return {};
}

Status Disk::grow(uint64_t bytes) {
    return fail(Code::host_unsupported,
                "disk: " + std::to_string(bytes) + " bytes: only a disk of layers can grow");
}

Status share_disk_file(int fd, const std::string& path) {
    if (try_lock(fd, F_RDLCK) < 0)
        return fail_errno("sharing the lock of " + quoted(path));
    return {};
}

}  // namespace spore
