#include "hypervisor/jail/empty_root.h"

#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace spore {

Status enter_empty_root() {
    // Nothing of what follows may reach the host's mounts; pivot_root refuses a shared root.
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
        return fail_errno("making the mounts private");
    // Over a directory that every host has. One inode is its root; there is room for no file.
    if (::mount("spore-jail", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                "size=4k,nr_inodes=2,mode=555") != 0)
        return fail_errno("mounting an empty file system");
    // pivot_root(2), "pivot_root(".", ".")": the old root comes to lie over the new one, and goes.
    if (::chdir("/proc") != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0)
        return fail_errno("pivot_root");
    if (::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0)
        return fail_errno("leaving the old root");
    return {};
}

}  // namespace spore
