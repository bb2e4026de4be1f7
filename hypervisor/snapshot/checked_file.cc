#include "hypervisor/snapshot/checked_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cassert>
#include <cstring>

#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

struct Header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint64_t payload_bytes;
    uint64_t payload_hash;
    uint64_t header_hash;  // of everything before it
};
static_assert(sizeof(Header) == 40);

uint64_t hash_of(const Header& header) {
    return XXH3_64bits(&header, offsetof(Header, header_hash));
}

Status write_all(int fd, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        ssize_t written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0)
            return fail_errno("write");
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return {};
}

}  // namespace

Status write_checked_file(const FileKind& kind, int file, std::span<const std::byte> payload) {
    Header header = {};
    assert(kind.magic.size() == sizeof(header.magic));
    kind.magic.copy(header.magic, sizeof(header.magic));
    header.version = kind.version;
    header.header_bytes = sizeof(Header);
    header.payload_bytes = payload.size();
    header.payload_hash = XXH3_64bits(payload.data(), payload.size());
    header.header_hash = hash_of(header);
    TRY(write_all(file, std::as_bytes(std::span(&header, 1))));
    TRY(write_all(file, payload));
    if (::fsync(file) != 0)
        return fail_errno("fsync");
    return {};
}

Status write_checked_file(const FileKind& kind, const std::string& path,
                          std::span<const std::byte> payload) {
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path);
    auto written = write_checked_file(kind, file.get(), payload);
    if (!written)
        return std::unexpected(std::move(written).error().within(path));
    return {};
}

Result<std::vector<std::byte>> read_checked_file(const FileKind& kind, int file,
                                                 const std::string& name) {
    struct stat status = {};
    if (::fstat(file, &status) != 0)
        return fail_errno(name);
    uint64_t limit = kind.payload_bytes_max + sizeof(Header);
    if (!S_ISREG(status.st_mode) || static_cast<uint64_t>(status.st_size) > limit)
        return fail(Code::corrupt,
                    name + ": not a regular file of at most " + std::to_string(limit) + " bytes");
    std::vector<std::byte> bytes(static_cast<size_t>(status.st_size));
    size_t done = 0;
    while (done < bytes.size()) {
        ssize_t got =
            ::pread(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (got < 0)
            return fail_errno(name);
        if (got == 0)
            break;
        done += static_cast<size_t>(got);
    }
    bytes.resize(done);
    auto payload = open_checked(kind, bytes);
    if (!payload)
        return std::unexpected(std::move(payload).error().within(name));
    // 40 bytes in, the payload keeps the 8-byte alignment of the vector's start.
    bytes.erase(bytes.begin(), bytes.begin() + sizeof(Header));
    return bytes;
}

Result<std::span<const std::byte>> open_checked(const FileKind& kind,
                                                std::span<const std::byte> file) {
    auto corrupt = [&](const std::string& what) {
        return fail(Code::corrupt, std::string(kind.name) + ": " + what);
    };
    if (file.size() < sizeof(Header))
        return corrupt(std::to_string(file.size()) + " bytes, its header alone has " +
                       std::to_string(sizeof(Header)));
    Header header;
    std::memcpy(&header, file.data(), sizeof(header));
    if (std::string_view(header.magic, sizeof(header.magic)) != kind.magic)
        return corrupt("does not begin with " + std::string(kind.magic));
    if (header.header_hash != hash_of(header))
        return corrupt("header checksum does not match");
    if (header.version < kind.version_min || header.version > kind.version)
        return fail(Code::version_mismatch,
                    std::string(kind.name) + ": format version " + std::to_string(header.version) +
                        ", this Spore reads versions " + std::to_string(kind.version_min) + " to " +
                        std::to_string(kind.version));
    if (header.header_bytes != sizeof(Header))
        return corrupt("header of " + std::to_string(header.header_bytes) + " bytes, not " +
                       std::to_string(sizeof(Header)));
    std::span<const std::byte> payload = file.subspan(sizeof(Header));
    if (header.payload_bytes != payload.size())
        return corrupt(std::to_string(payload.size()) + " bytes after the header, not " +
                       std::to_string(header.payload_bytes));
    if (header.payload_hash != XXH3_64bits(payload.data(), payload.size()))
        return corrupt("checksum does not match");
    return payload;
}

}  // namespace spore
