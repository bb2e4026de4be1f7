#include "hypervisor/base/small_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "hypervisor/base/unique_fd.h"

namespace spore {

Status write_all(int fd, const std::string& path, std::string_view content) {
    while (!content.empty()) {
        const ssize_t count = ::write(fd, content.data(), content.size());
        if (count < 0 && errno != EINTR)
            return fail_errno("write " + path);
        content.remove_prefix(count < 0 ? 0 : static_cast<size_t>(count));
    }
    return {};
}

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

}  // namespace spore
