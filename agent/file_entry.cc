#include "agent/file_entry.h"

#include <fcntl.h>
#include <unistd.h>

#include <climits>

namespace spore {

namespace {

wire::FileType type_of(mode_t mode) {
    switch (mode & S_IFMT) {
        case S_IFREG:
            return wire::FileType::file;
        case S_IFDIR:
            return wire::FileType::directory;
        case S_IFLNK:
            return wire::FileType::symlink;
        case S_IFIFO:
            return wire::FileType::fifo;
        case S_IFSOCK:
            return wire::FileType::socket;
        case S_IFBLK:
            return wire::FileType::block_device;
        case S_IFCHR:
            return wire::FileType::character_device;
        default:
            return wire::FileType::unknown;
    }
}

}  // namespace

flatbuffers::Offset<wire::FileEntry> create_entry(flatbuffers::FlatBufferBuilder& buffer,
                                                  std::string_view path, const struct stat& about,
                                                  std::string_view target) {
    const auto path_bytes = create_bytes(buffer, path);
    flatbuffers::Offset<flatbuffers::Vector<uint8_t>> target_bytes;
    if (S_ISLNK(about.st_mode))
        target_bytes = create_bytes(buffer, target);
    return wire::CreateFileEntry(
        buffer, path_bytes, type_of(about.st_mode), static_cast<uint64_t>(about.st_size),
        about.st_mode & 07777, about.st_uid, about.st_gid,
        int64_t{about.st_mtim.tv_sec} * 1'000'000'000 + about.st_mtim.tv_nsec, target_bytes,
        about.st_nlink, about.st_ino, about.st_dev);
}

bool look_at(int directory, const char* name, struct stat& about, std::string& target) {
    target.clear();
    if (::fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0)
        return false;
    if (!S_ISLNK(about.st_mode))
        return true;
    char bytes[PATH_MAX];
    const ssize_t size = ::readlinkat(directory, name, bytes, sizeof(bytes));
    if (size < 0)
        return false;
    target.assign(bytes, static_cast<size_t>(size));
    return true;
}

}  // namespace spore
