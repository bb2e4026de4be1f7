#pragma once

// Paths in requests, any bytes: here they become what system calls are given, and nothing else
// ever meets them. (Frames are verified before, by schema/frame.h.)

#include <sys/stat.h>

#include <optional>
#include <string>
#include <string_view>

#include "hypervisor/base/unique_fd.h"
#include "schema/frame.h"

namespace spore {

// The path, from "/" on. Errors: invalid_argument (empty, a NUL in it, above kPathBytesMax).
Result<std::string> path_of(const flatbuffers::Vector<uint8_t>* bytes);

// For messages: in quotes, cut where it is long.
std::string quoted(std::string_view path);

// A failed system call about a path, "<what> '<path>': <strerror>", with codes that suit files.
std::unexpected<Error> fail_file(std::string_view what, std::string_view path, int error = errno);

// A name and the directory that it is in, which stays that one wherever it is moved.
struct Place {
    UniqueFd directory;  // O_PATH
    std::string name;
};

// Where a path's last name is; `follow`: while that is a symbolic link, where it leads to. What is
// there, if anything, is not asked. Errors: invalid_argument (it has no last name, or a loop of
// links), not_found.
Result<Place> find_place(const std::string& path, bool follow);

// A file's permissions, with set-user-ID, set-group-ID and sticky bits.
inline constexpr uint32_t kModeMax = 07777;

// Who is to own what is new.
struct Owner {
    uid_t uid;
    gid_t gid;
};

// The owner that Exec.user's words name; nothing if there are none.
Result<std::optional<Owner>> owner_of(const flatbuffers::String* user);

// Makes the directories on the way to the last name of `path` that are missing, mode 0755. Errors:
// the system call's.
Status make_parents(const std::string& path, const std::optional<Owner>& owner);

// A file's time, from a request's.
timespec time_of(int64_t ns);

// A name that nothing has.
std::string temporary_name();

}  // namespace spore
