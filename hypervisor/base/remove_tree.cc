#include "hypervisor/base/remove_tree.h"

namespace spore {

namespace {

// Each that fails has met a file of somebody's who was beginning, and who has at most some tens to
// make before it finds that nobody waits for it.
constexpr int kTries = 1000;

}  // namespace

Status remove_tree(const std::filesystem::path& path) {
    std::error_code error;
    for (int tries = 0; tries < kTries; tries++) {
        std::filesystem::remove_all(path, error);
        if (error != std::errc::directory_not_empty)
            break;
    }
    if (error)
        return fail_errno(path.string(), error.value());
    return {};
}

}  // namespace spore
