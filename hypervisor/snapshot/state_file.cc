#include "hypervisor/snapshot/state_file.h"

#include <fcntl.h>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/snapshot/checked_file.h"

namespace spore {

namespace {
constexpr FileKind kState = {"SPORESNP", "snapshot state", kSnapshotVersion, kSnapshotVersionMin,
                             limits::kSnapshotStateBytesMax};
}  // namespace

Status write_state_file(const std::string& path, std::span<const std::byte> payload) {
    return write_checked_file(kState, path, payload);
}

Result<std::vector<std::byte>> read_state_file(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file)
        return fail_errno(path);
    return read_state_file(file.get(), path);
}

Result<std::vector<std::byte>> read_state_file(int file, const std::string& name) {
    return read_checked_file(kState, file, name);
}

Result<std::span<const std::byte>> open_state(std::span<const std::byte> file) {
    return open_checked(kState, file);
}

}  // namespace spore
