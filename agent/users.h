#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

// Who a command runs as.
struct User {
    std::string name;   // empty if the UID has no entry
    std::string home;   // "/" if the UID has no entry
    std::string shell;  // empty if the UID has no entry
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups;  // supplementary
};

// The user that `spec` names: "name" or "UID", with ":group" or ":GID" behind it if another primary
// group is wanted. Reads /etc/passwd and /etc/group under `root` itself: the C library's functions
// need its shared objects, and this program is static. Errors: not_found, invalid_argument.
Result<User> find_user(std::string_view spec, const std::string& root = "");

}  // namespace spore
