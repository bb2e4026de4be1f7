#include "hypervisor/network/network_files.h"

#include <sys/mount.h>
#include <unistd.h>

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/base/small_file.h"

namespace spore {

namespace stdfs = std::filesystem;

std::optional<NetworkFiles> NetworkFiles::of(const stdfs::path& directory) {
    std::error_code error;
    auto root = stdfs::read_symlink(directory / kNetworkLink, error);
    // It is followed by root: it leads to one of ours or nowhere.
    if (error || root.parent_path() != network_layout::kDirectory || root.filename().empty() ||
        root.filename().string().starts_with('.'))
        return std::nullopt;
    return NetworkFiles(root);
}

Status NetworkFiles::write_link(const std::string& link) const {
    if (::symlink(link.c_str(), (root_ / "link").c_str()) != 0)
        return fail_errno((root_ / "link").string());
    return {};
}

Result<std::string> NetworkFiles::read_link() const {
    std::error_code error;
    auto link = stdfs::read_symlink(root_ / "link", error);
    if (error)
        return fail_errno((root_ / "link").string(), error.value());
    return link.string();
}

Status NetworkFiles::write_rules(const std::string& rules) const {
    return replace_file(root_ / "rules", rules);
}

Status NetworkFiles::forget_rules() const {
    if (::unlink((root_ / "rules").c_str()) != 0 && errno != ENOENT)
        return fail_errno((root_ / "rules").string());
    return {};
}

Result<std::string> NetworkFiles::read_rules() const {
    return read_file(root_ / "rules");
}

Status NetworkFiles::remove() const {
    // One that was never bound is a file, or not there.
    if (::umount2(pin().c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL &&
        errno != ENOENT)
        return fail_errno(pin().string());
    return remove_tree(root_);
}

}  // namespace spore
