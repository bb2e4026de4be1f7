#include "hypervisor/snapshot/checksums.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "hypervisor/base/unique_fd.h"
#include "hypervisor/snapshot/checked_file.h"
#include "schema/checksums_generated.h"

namespace spore {

namespace fb = checksums::fb;
namespace stdfs = std::filesystem;

namespace {

constexpr FileKind kKind = {"SPORSUMS", "template checksums", 1, 1, limits::kChecksumsBytesMax};
constexpr size_t kNameBytesMax = 63;

std::unexpected<Error> corrupt(const std::string& what) {
    return fail(Code::corrupt, "template checksums: " + what);
}

uint64_t chunks_of(uint64_t bytes) {
    return bytes / kImageChunkBytes + (bytes % kImageChunkBytes != 0);
}

// A file, chunk by chunk.
class ChunkReader {
  public:
    static Result<ChunkReader> open(const stdfs::path& path) {
        ChunkReader reader;
        reader.name_ = path.string();
        // O_NONBLOCK: a FIFO must not hold us up before it can be refused.
        reader.file_.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
        if (!reader.file_)
            return fail_errno(reader.name_);
        struct stat status = {};
        if (::fstat(reader.file_.get(), &status) != 0)
            return fail_errno(reader.name_);
        if (!S_ISREG(status.st_mode))
            return fail(Code::corrupt, reader.name_ + ": not a regular file");
        reader.bytes_ = static_cast<uint64_t>(status.st_size);
        reader.buffer_.resize(std::min(reader.bytes_, kImageChunkBytes));
        return reader;
    }

    uint64_t bytes() const { return bytes_; }

    // The checksum of the chunk that begins at `start`; ascending.
    Result<uint64_t> hash(uint64_t start) {
        size_t size = std::min(kImageChunkBytes, bytes_ - start);
        if (is_hole(start, size))
            return hash_of_zeros(size);
        for (size_t done = 0; done < size;) {
            ssize_t got = ::pread(file_.get(), buffer_.data() + done, size - done,
                                  static_cast<off_t>(start + done));
            if (got < 0 && errno == EIO)
                return fail(Code::corrupt, name_ + ": the bytes from " +
                                               std::to_string(start + done) +
                                               " cannot be read: Input/output error");
            if (got < 0)
                return fail_errno(name_);
            if (got == 0)
                return fail(Code::corrupt, name_ + ": got shorter while it was read");
            done += static_cast<size_t>(got);
        }
        return XXH3_64bits(buffer_.data(), size);
    }

  private:
    bool is_hole(uint64_t start, uint64_t size) {
        if (next_data_ < start) {
            off_t data = ::lseek(file_.get(), static_cast<off_t>(start), SEEK_DATA);
            if (data >= 0)
                next_data_ = static_cast<uint64_t>(data);
            else  // the rest is a hole; or the file system cannot tell, and all is read
                next_data_ = errno == ENXIO ? bytes_ : start;
        }
        return next_data_ >= start + size;
    }

    uint64_t hash_of_zeros(size_t size) {
        if (size == kImageChunkBytes && zeros_known_)
            return zeros_;
        std::fill(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(size), std::byte{0});
        uint64_t hash = XXH3_64bits(buffer_.data(), size);
        if (size == kImageChunkBytes) {
            zeros_ = hash;
            zeros_known_ = true;
        }
        return hash;
    }

    UniqueFd file_;
    std::string name_;
    uint64_t bytes_ = 0;
    uint64_t next_data_ = 0;  // where the next data begins, as far as it is known
    uint64_t zeros_ = 0;
    bool zeros_known_ = false;
    std::vector<std::byte> buffer_;
};

Result<FileChecksums> decode(const fb::File& file) {
    FileChecksums out;
    out.name = file.name()->str();
    bool plain =
        !out.name.empty() && out.name.size() <= kNameBytesMax && out.name[0] != '.' &&
        std::ranges::all_of(out.name, [](char c) { return c > ' ' && c < 127 && c != '/'; });
    if (!plain)
        return corrupt("a file's name is none that a template has");
    out.bytes = file.bytes();
    if (file.chunk_hashes()->size() != chunks_of(out.bytes))
        return corrupt("'" + out.name + "': " + std::to_string(file.chunk_hashes()->size()) +
                       " of them for " + std::to_string(out.bytes) + " bytes");
    out.chunk_hashes.assign(file.chunk_hashes()->begin(), file.chunk_hashes()->end());
    return out;
}

}  // namespace

Result<FileChecksums> checksum_file(const stdfs::path& directory, const std::string& name,
                                    const ChecksumProgress& progress) {
    auto reader = TRY(ChunkReader::open(directory / name));
    FileChecksums checksums{name, reader.bytes(), {}};
    for (uint64_t start = 0; start < reader.bytes(); start += kImageChunkBytes) {
        checksums.chunk_hashes.push_back(TRY(reader.hash(start)));
        if (progress)
            progress(name, std::min(start + kImageChunkBytes, reader.bytes()), reader.bytes());
    }
    return checksums;
}

Status compare_file(const stdfs::path& directory, const FileChecksums& expected,
                    const ChecksumProgress& progress) {
    std::string path = (directory / expected.name).string();
    auto reader = ChunkReader::open(path);
    if (!reader && reader.error().code == Code::not_found)
        return fail(Code::corrupt, path + ": is missing");
    TRY(Status(reader ? Status() : std::unexpected(reader.error())));
    if (reader->bytes() != expected.bytes)
        return fail(Code::corrupt, path + ": " + std::to_string(reader->bytes()) +
                                       " bytes, its checksums are for " +
                                       std::to_string(expected.bytes));
    for (uint64_t start = 0; start < expected.bytes; start += kImageChunkBytes) {
        if (TRY(reader->hash(start)) != expected.chunk_hashes[start / kImageChunkBytes])
            return fail(Code::corrupt,
                        path + ": the bytes from " + std::to_string(start) + " to " +
                            std::to_string(std::min(start + kImageChunkBytes, expected.bytes) - 1) +
                            " do not match their checksum");
        if (progress)
            progress(expected.name, std::min(start + kImageChunkBytes, expected.bytes),
                     expected.bytes);
    }
    return {};
}

std::vector<std::byte> encode_checksums(const Checksums& checksums) {
    flatbuffers::FlatBufferBuilder builder;
    std::vector<flatbuffers::Offset<fb::File>> files;
    for (const FileChecksums& file : checksums)
        files.push_back(fb::CreateFile(builder, builder.CreateString(file.name), file.bytes,
                                       builder.CreateVector(file.chunk_hashes)));
    fb::FinishChecksumsBuffer(
        builder, fb::CreateChecksums(builder, kImageChunkBytes, builder.CreateVector(files)));
    auto* bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
    return {bytes, bytes + builder.GetSize()};
}

Result<Checksums> decode_checksums(std::span<const std::byte> payload) {
    flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(payload.data()),
                                   payload.size());
    if (!fb::VerifyChecksumsBuffer(verifier))
        return corrupt("are not what schema/checksums.fbs describes");
    const fb::Checksums& document = *fb::GetChecksums(payload.data());
    if (document.chunk_bytes() != kImageChunkBytes)
        return corrupt("chunks of " + std::to_string(document.chunk_bytes()) + " bytes, not " +
                       std::to_string(kImageChunkBytes));
    Checksums checksums;
    for (const fb::File* file : *document.files()) {
        checksums.push_back(TRY(decode(*file)));
        if (checksums.size() > 1 && checksums.back().name <= checksums[checksums.size() - 2].name)
            return corrupt("files are not in the order of their names");
    }
    return checksums;
}

Status write_checksums(const stdfs::path& directory, const Checksums& checksums) {
    return write_checked_file(kKind, (directory / kChecksumsFile).string(),
                              encode_checksums(checksums));
}

Result<Checksums> read_checksums(const stdfs::path& directory) {
    std::string path = (directory / kChecksumsFile).string();
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!file && errno == ENOENT)
        return fail(Code::corrupt, path + ": is missing");
    if (!file)
        return fail_errno(path);
    auto payload = TRY(read_checked_file(kKind, file.get(), path));
    auto checksums = decode_checksums(payload);
    if (!checksums)
        return std::unexpected(std::move(checksums).error().within(path));
    return checksums;
}

}  // namespace spore
