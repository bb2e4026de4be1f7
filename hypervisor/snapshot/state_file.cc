#include "hypervisor/snapshot/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hypervisor/base/limits.h"
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

constexpr char kMagic[8] = {'S', 'P', 'O', 'R', 'E', 'S', 'N', 'P'};

uint64_t hash_of(const Header& header) {
    return XXH3_64bits(&header, offsetof(Header, header_hash));
}

std::unexpected<Error> corrupt(const std::string& what) {
    return fail(Code::corrupt, "snapshot state: " + what);
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

Status write_state_file(const std::string& path, std::span<const std::byte> payload) {
    Header header = {};
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.version = kSnapshotVersion;
    header.header_bytes = sizeof(Header);
    header.payload_bytes = payload.size();
    header.payload_hash = XXH3_64bits(payload.data(), payload.size());
    header.header_hash = hash_of(header);
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path);
    for (auto part : {std::as_bytes(std::span(&header, 1)), payload}) {
        if (auto written = write_all(file.get(), part); !written)
            return std::unexpected(std::move(written).error().within(path));
    }
    if (::fsync(file.get()) != 0)
        return fail_errno(path + ": fsync");
    return {};
}

Result<std::vector<std::byte>> read_state_file(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file)
        return fail_errno(path);
    return read_state_file(file.get(), path);
}

Result<std::vector<std::byte>> read_state_file(int file, const std::string& name) {
    struct stat status = {};
    if (::fstat(file, &status) != 0)
        return fail_errno(name);
    uint64_t limit = limits::kSnapshotStateBytesMax + sizeof(Header);
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
    auto payload = open_state(bytes);
    if (!payload)
        return std::unexpected(std::move(payload).error().within(name));
    // 40 bytes in, the payload keeps the 8-byte alignment of the vector's start.
    bytes.erase(bytes.begin(), bytes.begin() + sizeof(Header));
    return bytes;
}

Result<std::span<const std::byte>> open_state(std::span<const std::byte> file) {
    if (file.size() < sizeof(Header))
        return corrupt(std::to_string(file.size()) + " bytes, its header alone has " +
                       std::to_string(sizeof(Header)));
    Header header;
    std::memcpy(&header, file.data(), sizeof(header));
    if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0)
        return corrupt("does not begin with SPORESNP");
    if (header.header_hash != hash_of(header))
        return corrupt("header checksum does not match");
    if (header.version < kSnapshotVersionMin || header.version > kSnapshotVersion)
        return fail(Code::version_mismatch,
                    "snapshot state: format version " + std::to_string(header.version) +
                        ", this Spore reads versions " + std::to_string(kSnapshotVersionMin) +
                        " to " + std::to_string(kSnapshotVersion));
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
