#include "hypervisor/snapshot/memory_image.h"

#include <fcntl.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "hypervisor/base/mapping.h"

namespace spore {

namespace {

constexpr size_t kPage = 4096;

bool is_zero(const std::byte* page) {
    uint64_t words[8];
    for (size_t offset = 0; offset < kPage; offset += sizeof(words)) {
        std::memcpy(words, page + offset, sizeof(words));
        if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] |
             words[7]) != 0)
            return false;
    }
    return true;
}

Status write_at(int file, const std::byte* bytes, size_t size, uint64_t offset) {
    while (size > 0) {
        ssize_t written = ::pwrite(file, bytes, size, static_cast<off_t>(offset));
        if (written < 0)
            return fail_errno("memory image: write of " + std::to_string(size) + " bytes");
        bytes += written;
        size -= static_cast<size_t>(written);
        offset += static_cast<uint64_t>(written);
    }
    return {};
}

// Writes the pages of `bytes` that hold something, in runs; returns how many bytes those were.
Result<uint64_t> write_data_pages(int file, std::span<const std::byte> bytes, uint64_t offset) {
    uint64_t total = 0;
    size_t page = 0;
    while (page < bytes.size()) {
        if (is_zero(bytes.data() + page)) {
            page += kPage;
            continue;
        }
        size_t end = page + kPage;
        while (end < bytes.size() && !is_zero(bytes.data() + end))
            end += kPage;
        TRY(write_at(file, bytes.data() + page, end - page, offset + page));
        total += end - page;
        page = end;
    }
    return total;
}

}  // namespace

Result<MemoryImageInfo> write_memory_image(const GuestMemory& memory, const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path);
    MemoryImageInfo info;
    info.file_bytes = memory.size();
    if (::ftruncate(file.get(), static_cast<off_t>(info.file_bytes)) != 0)
        return fail_errno(path + ": ftruncate");
    // A region's size need not be a multiple of the chunk's: a chunk never spans two regions here
    // because the first region is either the only one or ends at the hole, 3 GiB.
    for (const MemoryRegion& region : memory.regions()) {
        for (uint64_t done = 0; done < region.size(); done += kImageChunkBytes) {
            auto chunk = region.mapping.span().subspan(
                done, std::min<uint64_t>(kImageChunkBytes, region.size() - done));
            info.chunk_hashes.push_back(XXH3_64bits(chunk.data(), chunk.size()));
            info.data_bytes += TRY(write_data_pages(file.get(), chunk, region.file_offset + done));
        }
    }
    if (::fsync(file.get()) != 0)
        return fail_errno(path + ": fsync");
    return info;
}

Result<UniqueFd> open_memory_image(const std::string& path, uint64_t file_bytes) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file)
        return fail_errno(path);
    TRY(check_memory_image(file.get(), path, file_bytes));
    return file;
}

Status check_memory_image(int image, const std::string& name, uint64_t file_bytes) {
    struct stat status = {};
    if (::fstat(image, &status) != 0)
        return fail_errno(name);
    if (!S_ISREG(status.st_mode))
        return fail(Code::corrupt, name + ": not a regular file");
    if (static_cast<uint64_t>(status.st_size) != file_bytes)
        return fail(Code::corrupt, name + ": " + std::to_string(status.st_size) +
                                       " bytes, the snapshot's table says " +
                                       std::to_string(file_bytes));
    return {};
}

Status verify_memory_image(int image, uint64_t file_bytes, std::span<const uint64_t> chunk_hashes) {
    uint64_t chunks = (file_bytes + kImageChunkBytes - 1) / kImageChunkBytes;
    if (chunk_hashes.size() != chunks)
        return fail(Code::corrupt, "memory image: " + std::to_string(chunk_hashes.size()) +
                                       " checksums for " + std::to_string(chunks) + " chunks");
    auto mapping = TRY(Mapping::create(file_bytes, PROT_READ, MAP_PRIVATE, image));
    for (uint64_t chunk = 0; chunk < chunks; chunk++) {
        uint64_t start = chunk * kImageChunkBytes;
        uint64_t size = std::min(kImageChunkBytes, file_bytes - start);
        if (XXH3_64bits(mapping.data() + start, size) != chunk_hashes[chunk])
            return fail(Code::corrupt, "memory image: checksum of the bytes from " +
                                           std::to_string(start) + " does not match");
    }
    return {};
}

}  // namespace spore
