#include "agent/directory_stack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <string_view>

#include "agent/file_path.h"

namespace spore {

namespace {

// More descriptors than most trees are deep, and few enough for every stream there may be.
constexpr size_t kOpenLevels = 16;
// Names are kept for each: 1 MiB at worst.
constexpr size_t kLevelsMax = 4096;

constexpr int kOpenDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;

// getdents64(2)
struct RawEntry {
    uint64_t inode;
    int64_t position;
    uint16_t length;
    uint8_t type;
    char name[];
};

}  // namespace

bool DirectoryBatch::fill(int directory) {
    at_ = 0;
    const long count = ::syscall(SYS_getdents64, directory, bytes_.data(), bytes_.size());
    size_ = count < 0 ? 0 : static_cast<size_t>(count);
    return count >= 0;
}

const DirectoryBatch::Entry* DirectoryBatch::next() {
    while (at_ < size_) {
        const auto* raw = reinterpret_cast<const RawEntry*>(bytes_.data() + at_);
        at_ += raw->length;
        const std::string_view name = raw->name;
        if (name == "." || name == "..")
            continue;
        entry_ = {.name = raw->name, .type = raw->type, .position = raw->position};
        return &entry_;
    }
    return nullptr;
}

Status DirectoryStack::enter(int from, const char* name) {
    UniqueFd fd(::openat(from, name, kOpenDirectory));
    if (!fd)
        return fail_file("open directory", name);
    return push(std::move(fd), name);
}

Status DirectoryStack::enter(UniqueFd directory) {
    return push(std::move(directory), "");
}

Status DirectoryStack::descend(const char* name, int64_t position) {
    UniqueFd fd(::openat(levels_.back().fd.get(), name, kOpenDirectory));
    if (!fd)
        return fail_file("open directory", name);
    levels_.back().position = position;
    return push(std::move(fd), name);
}

Status DirectoryStack::push(UniqueFd fd, const char* name) {
    if (levels_.size() >= kLevelsMax) {
        return fail(Code::resource_exhausted,
                    "directories: more than " + std::to_string(kLevelsMax) + " within another");
    }
    struct stat about = {};
    if (::fstat(fd.get(), &about) != 0)
        return fail_file("look at directory", name);
    if (levels_.size() >= kOpenLevels)
        levels_[levels_.size() - kOpenLevels].fd.reset();
    levels_.push_back({std::move(fd), about.st_dev, about.st_ino, 0, name});
    return {};
}

Status DirectoryStack::ascend() {
    const UniqueFd below = std::move(levels_.back().fd);
    levels_.pop_back();
    if (levels_.empty())
        return {};
    Level& level = levels_.back();
    if (!level.fd) {
        level.fd = UniqueFd(::openat(below.get(), "..", kOpenDirectory));
        struct stat about = {};
        if (!level.fd || ::fstat(level.fd.get(), &about) != 0 || about.st_dev != level.device ||
            about.st_ino != level.inode)
            return fail(Code::unavailable,
                        "directory " + quoted(level.name) + ": was moved or removed meanwhile");
    }
    if (::lseek(level.fd.get(), level.position, SEEK_SET) < 0)
        return fail_file("go on reading directory", level.name);
    return {};
}

}  // namespace spore
