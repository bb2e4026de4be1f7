// From the initramfs to the root file system on a disk.

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "agent/file.h"
#include "agent/init.h"
#include "agent/log.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

constexpr const char* kNewRoot = "/newroot";
constexpr const char* kMoved[] = {"/proc", "/sys", "/dev"};
constexpr std::chrono::seconds kDiskWait{10};

bool is_block_device(const std::string& path) {
    struct stat about = {};
    return ::stat(path.c_str(), &about) == 0 && S_ISBLK(about.st_mode);
}

// Whether a virtio block device (virtio 1.2 §5: ID 2) has been found, with or without its disk yet.
bool has_virtio_disk() {
    constexpr const char* kDevices = "/sys/bus/virtio/devices";
    DIR* devices = ::opendir(kDevices);
    if (devices == nullptr)
        return false;
    bool found = false;
    while (const dirent* entry = ::readdir(devices)) {
        const auto id = read_file(std::string(kDevices) + "/" + entry->d_name + "/device");
        found = found || (id && id->starts_with("0x0002"));
    }
    ::closedir(devices);
    return found;
}

Status wait_for_disk(const std::string& path) {
    const auto deadline = std::chrono::steady_clock::now() + kDiskWait;
    while (!is_block_device(path)) {
        if (std::chrono::steady_clock::now() > deadline) {
            return fail(Code::not_found, "root disk " + path + ": did not appear within " +
                                             std::to_string(kDiskWait.count()) + " s");
        }
        ::usleep(1000);
    }
    return {};
}

// Removes everything below the directory that is on the file system `device`. Takes `fd`.
void remove_contents(int fd, dev_t device) {
    DIR* directory = ::fdopendir(fd);
    if (directory == nullptr) {
        ::close(fd);
        return;
    }
    while (const dirent* entry = ::readdir(directory)) {
        const std::string_view name = entry->d_name;
        struct stat about = {};
        if (name == "." || name == ".." ||
            ::fstatat(::dirfd(directory), entry->d_name, &about, AT_SYMLINK_NOFOLLOW) != 0 ||
            about.st_dev != device)
            continue;
        if (S_ISDIR(about.st_mode)) {
            const int below = ::openat(::dirfd(directory), entry->d_name,
                                       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (below >= 0)
                remove_contents(below, device);
        }
        ::unlinkat(::dirfd(directory), entry->d_name, S_ISDIR(about.st_mode) ? AT_REMOVEDIR : 0);
    }
    ::closedir(directory);
}

Status move_mounts() {
    for (const char* mount : kMoved) {
        const std::string target = std::string(kNewRoot) + mount;
        ::mkdir(target.c_str(), 0755);
        if (::mount(mount, target.c_str(), nullptr, MS_MOVE, nullptr) != 0)
            return fail_errno(std::string("move ") + mount + " to the root file system");
    }
    return {};
}

}  // namespace

Result<bool> switch_root(const BootOptions& options) {
    if (options.root.empty() && !has_virtio_disk() && !is_block_device("/dev/vda"))
        return false;
    const std::string name = options.root.empty() ? "vda" : options.root;
    const std::string disk = name.starts_with('/') ? name : "/dev/" + name;
    TRY(wait_for_disk(disk));
    ::mkdir(kNewRoot, 0755);
    if (::mount(disk.c_str(), kNewRoot, options.root_type.c_str(),
                options.read_only ? MS_RDONLY : 0, options.root_flags.c_str()) != 0)
        return fail_errno("mount " + disk + " as " + options.root_type);
    TRY(move_mounts());
    struct stat initramfs = {};
    const int old_root = ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (old_root < 0 || ::fstat(old_root, &initramfs) != 0 || ::chdir(kNewRoot) != 0)
        return fail_errno("switch root");
    // Its memory is of no more use. The initramfs cannot be unmounted, only covered.
    remove_contents(old_root, initramfs.st_dev);
    if (::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || ::chroot(".") != 0 ||
        ::chdir("/") != 0)
        return fail_errno("switch root");
    return true;
}

}  // namespace spore
