#pragma once

// Where the directories of running sandboxes are: in memory, where this host has a tmpfs. They hold
// sockets, logs and names, which end with the VMs at the host's next start, and a file there costs
// 5 µs instead of the 20 to 200 that a new inode of ext4 does; a cold clone needs six.

#include "hypervisor/sandbox/home.h"

namespace spore {

// Sees to it that home.sandboxes() and home.pools() are there, on one file system: links into a
// directory on a tmpfs, else directories of the home itself (as older homes have them). Where that
// memory is gone (the host was started anew) what the sandboxes of before had on disk goes too.
// Errors: the host's.
Status make_run_directories(const Home& home);

}  // namespace spore
