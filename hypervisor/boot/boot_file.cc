#include "hypervisor/boot/boot_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

namespace spore {

std::string hex(uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

Result<BootFile> BootFile::open(int fd, std::string_view name) {
    struct stat status = {};
    if (::fstat(fd, &status) != 0)
        return fail_errno(name);
    if (!S_ISREG(status.st_mode))
        return fail(Code::invalid_argument, std::string(name) + ": not a regular file");
    return BootFile(fd, name, static_cast<uint64_t>(status.st_size));
}

std::unexpected<Error> BootFile::corrupt(std::string_view what) const {
    return fail(Code::corrupt, name_ + ": " + std::string(what));
}

Status BootFile::read(uint64_t offset, std::span<std::byte> bytes, std::string_view what) const {
    if (offset > size_ || bytes.size() > size_ - offset)
        return corrupt("truncated: " + std::string(what) + " is " + std::to_string(bytes.size()) +
                       " bytes at " + std::to_string(offset) + ", the file " +
                       std::to_string(size_));
    while (!bytes.empty()) {
        ssize_t got = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_errno(name_);
        if (got == 0)
            return corrupt("truncated while it was read, at " + std::to_string(offset));
        bytes = bytes.subspan(static_cast<size_t>(got));
        offset += static_cast<uint64_t>(got);
    }
    return {};
}

Status BootFile::load(const GuestMemory& memory, GuestAddress target, uint64_t offset,
                      uint64_t size, std::string_view what) const {
    auto bytes = memory.range(target, size);
    if (!bytes)
        return fail(Code::invalid_argument,
                    name_ + ": " + std::string(what) + ": " + std::move(bytes).error().message);
    return read(offset, *bytes, what);
}

}  // namespace spore
