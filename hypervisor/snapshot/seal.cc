#include "hypervisor/snapshot/seal.h"

#include <fcntl.h>
#include <linux/fsverity.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace spore {

namespace stdfs = std::filesystem;

namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'S', 'P', 'O', 'R', 'S', 'E', 'A', 'L'};
constexpr uint32_t kVersion = 1;

struct Entry {
    char name[32];
    uint64_t inode;
    uint64_t bytes;
    int64_t modified_ns;
    int64_t changed_ns;
    uint32_t algorithm;
    uint32_t digest_size;
    uint8_t digest[64];
    uint64_t zeros;
};
static_assert(sizeof(Entry) == 144);

struct Image {
    char magic[8];
    uint32_t version;
    uint32_t files;
    Entry entries[limits::kSealedFilesMax];
    uint64_t hash;  // of everything before it
};
static_assert(sizeof(Image) == 1176);

uint64_t hash_of(const Image& image) {
    return XXH3_64bits(&image, offsetof(Image, hash));
}

int64_t nanoseconds(const timespec& time) {
    return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

std::unexpected<Error> differs(const std::string& path, const char* what) {
    return fail(Code::corrupt, path + ": is not the file that was sealed: " + what);
}

Result<struct stat> stat_of(int file, const std::string& path) {
    struct stat status = {};
    if (::fstat(file, &status) != 0)
        return fail_errno(path);
    return status;
}

Status check_stamp(const FileSeal& seal, int file, const std::string& path) {
    auto now = TRY(stat_of(file, path));
    if (static_cast<uint64_t>(now.st_size) != seal.bytes)
        return differs(path, "another length");
    if (now.st_ino != seal.inode)
        return differs(path, "another inode");
    if (nanoseconds(now.st_mtim) != seal.modified_ns)
        return differs(path, "written to since");
    if (seal.changed_ns != 0 && nanoseconds(now.st_ctim) != seal.changed_ns)
        return differs(path, "changed since");
    return {};
}

Result<FileSeal> seal_of(const stdfs::path& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file)
        return fail_errno(path.string());
    auto status = TRY(stat_of(file.get(), path.string()));
    FileSeal seal;
    seal.name = path.filename();
    seal.inode = status.st_ino;
    seal.bytes = static_cast<uint64_t>(status.st_size);
    seal.modified_ns = nanoseconds(status.st_mtim);
    seal.changed_ns = status.st_nlink == 1 ? nanoseconds(status.st_ctim) : 0;
    seal.verity = TRY(measure_verity(file.get(), path.string()));
    return seal;
}

FileSeal from_entry(const Entry& entry) {
    FileSeal seal;
    seal.name.assign(entry.name, ::strnlen(entry.name, sizeof(entry.name)));
    seal.inode = entry.inode;
    seal.bytes = entry.bytes;
    seal.modified_ns = entry.modified_ns;
    seal.changed_ns = entry.changed_ns;
    seal.verity.algorithm = entry.algorithm;
    seal.verity.size = entry.digest_size;
    std::ranges::copy(entry.digest, seal.verity.bytes.begin());
    return seal;
}

}  // namespace

Result<Seal> Seal::of(const stdfs::path& directory, std::span<const std::string> names) {
    if (names.size() > limits::kSealedFilesMax)
        return fail(Code::invalid_argument, "seal: " + std::to_string(names.size()) +
                                                " files, at most " +
                                                std::to_string(limits::kSealedFilesMax));
    Seal seal;
    for (const std::string& name : names) {
        if (name.size() >= sizeof(Entry::name))
            return fail(Code::invalid_argument, "seal: the name '" + name + "' is too long");
        seal.files_.push_back(TRY(seal_of(directory / name)));
    }
    return seal;
}

Result<Seal> Seal::read(const stdfs::path& directory) {
    std::string path = (directory / kSealFile).string();
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!file && errno == ENOENT)
        return fail(Code::corrupt, path + ": is missing");
    if (!file)
        return fail_errno(path);
    Image image;
    ssize_t got = ::pread(file.get(), &image, sizeof(image), 0);
    if (got < 0)
        return fail_errno(path);
    if (got != sizeof(image) || std::memcmp(image.magic, kMagic, sizeof(kMagic)) != 0)
        return fail(Code::corrupt, path + ": is no seal");
    if (image.hash != hash_of(image))
        return fail(Code::corrupt, path + ": checksum does not match");
    if (image.version != kVersion)
        return fail(Code::version_mismatch, path + ": version " + std::to_string(image.version) +
                                                ", this Spore reads " + std::to_string(kVersion));
    if (image.files > limits::kSealedFilesMax)
        return fail(Code::corrupt, path + ": " + std::to_string(image.files) + " files, at most " +
                                       std::to_string(limits::kSealedFilesMax));
    Seal seal;
    for (const Entry& entry : std::span(image.entries).first(image.files))
        seal.files_.push_back(from_entry(entry));
    return seal;
}

Status Seal::write(const stdfs::path& directory) const {
    Image image = {};
    std::memcpy(image.magic, kMagic, sizeof(kMagic));
    image.version = kVersion;
    for (const FileSeal& seal : files_) {
        Entry& entry = image.entries[image.files++];
        seal.name.copy(entry.name, sizeof(entry.name) - 1);
        entry.inode = seal.inode;
        entry.bytes = seal.bytes;
        entry.modified_ns = seal.modified_ns;
        entry.changed_ns = seal.changed_ns;
        entry.algorithm = seal.verity.algorithm;
        entry.digest_size = seal.verity.size;
        std::ranges::copy(seal.verity.bytes, entry.digest);
    }
    image.hash = hash_of(image);
    // Two that verify at once must not write into each other's.
    std::string beside = (directory / kSealFile).string() + ".new-" + std::to_string(::getpid());
    ::unlink(beside.c_str());
    UniqueFd file(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400));
    if (!file)
        return fail_errno(beside);
    if (::write(file.get(), &image, sizeof(image)) != sizeof(image) || ::fsync(file.get()) != 0 ||
        ::rename(beside.c_str(), (directory / kSealFile).c_str()) != 0) {
        auto error = fail_errno(beside);
        ::unlink(beside.c_str());
        return error;
    }
    return {};
}

bool Seal::has_verity() const {
    return !files_.empty() &&
           std::ranges::all_of(files_, [](const FileSeal& file) { return file.verity.size > 0; });
}

Status Seal::check(int file, const std::string& path) const {
    size_t slash = path.rfind('/');
    std::string_view name = std::string_view(path).substr(slash == path.npos ? 0 : slash + 1);
    auto seal = std::ranges::find(files_, name, &FileSeal::name);
    if (seal == files_.end())
        return fail(Code::corrupt, path + ": is none of the files that were sealed");
    if (seal->verity.size == 0)
        return check_stamp(*seal, file, path);
    if (TRY(measure_verity(file, path)) != seal->verity)
        return differs(path, "another fs-verity digest, or none");
    return {};
}

Result<bool> enable_verity(const stdfs::path& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file)
        return fail_errno(path.string());
    fsverity_enable_arg how = {};
    how.version = 1;
    how.hash_algorithm = FS_VERITY_HASH_ALG_SHA256;
    how.block_size = 4096;
    if (::ioctl(file.get(), FS_IOC_ENABLE_VERITY, &how) == 0 || errno == EEXIST)
        return true;
    // ENOTTY: no such ioctl there; EOPNOTSUPP: the file system was made without; EINVAL: not with
    // blocks of this size; EPERM: with signed digests only.
    if (errno == ENOTTY || errno == EOPNOTSUPP || errno == EINVAL || errno == EPERM)
        return false;
    return fail_errno(path.string() + ": FS_IOC_ENABLE_VERITY");
}

Result<VerityDigest> measure_verity(int file, const std::string& name) {
    alignas(fsverity_digest) uint8_t bytes[sizeof(fsverity_digest) + 64] = {};
    auto* digest = reinterpret_cast<fsverity_digest*>(bytes);
    digest->digest_size = 64;
    VerityDigest verity;
    if (::ioctl(file, FS_IOC_MEASURE_VERITY, digest) != 0) {
        // ENODATA: the file has none; the others as above.
        if (errno == ENODATA || errno == ENOTTY || errno == EOPNOTSUPP)
            return verity;
        return fail_errno(name + ": FS_IOC_MEASURE_VERITY");
    }
    verity.algorithm = digest->digest_algorithm;
    verity.size = std::min<uint32_t>(digest->digest_size, 64);
    std::memcpy(verity.bytes.data(), bytes + sizeof(fsverity_digest), verity.size);
    return verity;
}

}  // namespace spore
