#include "agent/file.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

Status write_all(int fd, const std::string& path, std::string_view content) {
    while (!content.empty()) {
        const ssize_t count = ::write(fd, content.data(), content.size());
        if (count < 0 && errno != EINTR)
            return fail_errno("write " + path);
        content.remove_prefix(count < 0 ? 0 : static_cast<size_t>(count));
    }
    return {};
}

}  // namespace

Result<std::string> read_file(const std::string& path, size_t bytes_max) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd)
        return fail_errno("open " + path);
    std::string content;
    char chunk[4096];
    while (true) {
        const ssize_t count = ::read(fd.get(), chunk, sizeof(chunk));
        if (count == 0)
            return content;
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail_errno("read " + path);
        if (content.size() + static_cast<size_t>(count) > bytes_max) {
            return fail(Code::resource_exhausted,
                        path + ": is above " + std::to_string(bytes_max) + " bytes");
        }
        content.append(chunk, static_cast<size_t>(count));
    }
}

Status replace_file(const std::string& path, std::string_view content) {
    const std::string fresh = path + ".spore";
    UniqueFd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (!fd)
        return fail_errno("create " + fresh);
    Status written = write_all(fd.get(), fresh, content);
    if (written && ::rename(fresh.c_str(), path.c_str()) != 0)
        written = fail_errno("rename " + fresh);
    if (!written)
        ::unlink(fresh.c_str());
    return written;
}

Status write_setting(const std::string& path, std::string_view content) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd)
        return fail_errno("open " + path);
    if (::write(fd.get(), content.data(), content.size()) < 0)
        return fail_errno("write " + path);
    return {};
}

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

}  // namespace spore
