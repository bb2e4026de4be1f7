#pragma once

// The jail of spore-vmm: what a process that reads hostile bytes can still reach.
//
//   start_isolated()      namespaces.h   a program as PID 1 of its own PID namespace (cold path)
//   fork_jailed()        namespaces.h   a worker of a jailed process, in namespaces of its own
//   enter_jail()         here           the process shuts itself in; every file it needs is open
//   enter_worker_jail()  here           the same for what fork_jailed() made
//   restrict_thread()    here           the system calls a thread may still make
//
// Order: open every file, make the io_uring, enter_jail(), restrict_thread(loop), and only then
// read the first byte of a guest or a snapshot. Each vCPU's thread calls restrict_thread(vcpu)
// itself.
//
// In the jail no name of a file can be used any more: open, unlink, rename, stat, connect, bind and
// socket kill the process. glibc's malloc keeps to one arena there: giving memory of another arena
// back makes it read /proc/sys/vm/overcommit_memory.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

// One property of the jail, and whether it holds for this process.
struct JailItem {
    std::string name;  // "user", "mount", "pid", "network", "ipc", "uts", "root", ...
    bool holds = false;
    std::string why;   // if it does not: why not
    std::string path;  // of the cgroup, if it holds, as /proc/PID/cgroup has it
};

struct JailReport {
    std::vector<JailItem> items;

    bool holds(std::string_view name) const;
    // "cgroup: this host has no ...", for each item that does not hold, joined by "; ".
    std::string missing() const;
};

// Nobody.
inline constexpr unsigned kJailUser = 65534;

struct JailOptions {
    // Descriptors that stay open; all others are closed. Order and repetitions do not matter.
    // Nothing: all of them, for a process that has closed what it inherited before it opened any
    // (close_inherited).
    std::optional<std::span<const int>> keep;
    // Descriptors the process may have open at once (RLIMIT_NOFILE).
    uint64_t files_max = 4096;
    // Threads and processes of this one's user namespace (RLIMIT_NPROC).
    uint64_t tasks_max = 64;
    // Bytes of the largest file it may write (RLIMIT_FSIZE); the disk of a clone is one.
    uint64_t file_bytes_max = UINT64_MAX;
    // The path of the cgroup that the process was started in for it alone, or why there is none.
    std::string cgroup = "the process is in its starter's cgroup";
    // As root: the user and group that the process becomes (own_user.h). It has no files.
    unsigned user = kJailUser;
    // Why that is not the process's own alone; empty: it is.
    std::string why_shared_user = "it was given none";
    // False for a zygote with a user of its own: from the outermost namespace on, its keeper maps
    // other users into those of its workers.
    bool user_namespace = true;
};

// What was reported last in this process, and of seccomp what restrict_thread() has done since; no
// items: it is not jailed. One thread at a time.
const JailReport& jail_report();

// Closes every descriptor but `keep`: first of all, in a process that is to enter the jail with
// what it opens itself.
Status close_inherited(std::span<const int> keep);

// Shuts the calling process in, for good; it must have one thread only. What the host refuses is
// told in the report, not an error: a caller that insists looks at it. Errors: what no host refuses
// (no_new_privs, rlimits, closing descriptors), and a process with several threads.
Result<JailReport> enter_jail(const JailOptions& options);

// What is left to do in a child made by fork_jailed(), whose parent is in the jail already:
// capabilities of its new user namespace, descriptors, limits. The report is about the child.
Result<JailReport> enter_worker_jail(const JailOptions& options);

// Which system calls a thread may make. Each of a VMM's is a subset of the next one's.
enum class Role {
    vcpu,      // runs a guest
    loop,      // builds a machine and serves its devices; starts the vCPU threads
    zygote,    // forks workers, makes their rings
    resolver,  // no VMM's: answers a guest's questions for names
    keeper,    // no VMM's: changes the rules of a user's network (user_network.h)
};

// The calling thread makes only `role`'s system calls from here on (filter_policy.h); any other
// kills the process by SIGSYS. Threads it starts later inherit that. Needs no_new_privs. One system
// call; the filter was compiled when Spore was built.
Status restrict_thread(Role role);
// The same in a process that has restricted a thread before, and nothing in any other: for code
// that runs in jails and outside.
Status restrict_if_jailed(Role role);
// Whether a thread of this process has been restricted: it opens no file any more.
bool is_jailed();

}  // namespace spore
