#pragma once

// A user and a group for each jailed process, where root starts it: what one of them owns, may
// signal or is counted by (RLIMIT_MEMLOCK, RLIMIT_NPROC) is no other's.
//
// A number is taken by locking a file of its name in kUsersDirectory, host-wide. The process itself
// holds the lock as long as it lives, so nothing is to be freed: not at its end, nor when whoever
// started it is killed. The file that is left is nothing but a name.

#include <optional>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

inline constexpr const char* kUsersDirectory = "/run/spore-users";

// Where to look; other than these in tests.
struct UserHost {
    std::string directory = kUsersDirectory;
    // Whose users and subordinate ranges are somebody's: passwd(5), group(5), subuid(5), subgid(5).
    std::vector<std::string> accounts = {"/etc/passwd", "/etc/group"};
    std::vector<std::string> subordinates = {"/etc/subuid", "/etc/subgid"};
    std::string map = "/proc/self/uid_map";   // which IDs there are in this user namespace
    std::string wanted = from_environment();  // $SPORE_UIDS: "FIRST-LAST" or "none"

    static std::string from_environment();
};

struct UserRange {
    unsigned first = 900'000;
    unsigned last = 965'535;
};
// The range on this host; checked against those who have users there. Errors: invalid_argument
// (not a range, or one with nobody or another's users in it), host_unsupported ("none", or this
// user namespace has no such IDs).
Result<UserRange> user_range(const UserHost& host = {});

struct OwnUser {
    unsigned id = 0;  // of the user, and of the group
    UniqueFd claim;   // held by whoever is that user
};
// One that nobody has. Root only. Errors: those of user_range(), resource_exhausted, the host's.
Result<OwnUser> claim_user(const UserHost& host = {});

// The same for root, and nothing where it is not to be had: for others, and where SPORE_UIDS is
// "none". Errors: as above, but host_unsupported.
Result<std::optional<OwnUser>> claim_user_if_root(const UserHost& host = {});

// Removes the files of numbers that are nobody's; returns how many. About 5 µs for each.
size_t sweep_users(const UserHost& host = {});

// For a worker of a zygote (fork_jailed), whose user namespace has no IDs yet. The two ends of a
// socket: the keeper's, on which the kernel says who the worker is, and the worker's. Errors: the
// host's.
struct UserMapper {
    UniqueFd keeper;
    UniqueFd worker;
};
Result<UserMapper> make_user_mapper();
// The keeper's half: waits for the worker on its end, and maps `user` into its namespace, where it
// is called nobody (kJailUser). Errors:
// unavailable (it has died), timeout, the host's.
Status map_worker_user(int socket, unsigned user, int timeout_ms);
// The worker's: asks, and becomes that user. Before enter_worker_jail().
Status become_mapped_user(int socket);

}  // namespace spore
