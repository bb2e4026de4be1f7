#include "agent/file.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/base/unique_fd.h"

namespace spore {

Status overwrite_file(const std::string& path, std::string_view content) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
    struct stat status = {};
    // A file with another name is somebody else's too.
    if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1)
        return put_file(path, content);
    TRY(write_all(fd.get(), path, content));
    if (status.st_size > static_cast<off_t>(content.size()) &&
        ::ftruncate(fd.get(), static_cast<off_t>(content.size())) != 0)
        return fail_errno("truncate " + path);
    return {};
}

Status put_file(const std::string& path, std::string_view content) {
    Status replaced = replace_file(path, content);
    if (replaced || replaced.error().code != Code::permission_denied)
        return replaced;
    const std::string own = kOwnFiles + path.substr(path.rfind('/'));
    TRY(replace_file(own, content));
    if (::mount(own.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) != 0)
        return fail_errno("bind " + own + " over " + path);
    return {};
}

bool is_folder(const std::string& path) {
    struct stat about = {};
    return ::stat(path.c_str(), &about) == 0 && S_ISDIR(about.st_mode);
}

}  // namespace spore
