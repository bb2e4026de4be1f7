// A layer's map as a file. UNTRUSTED: it comes with a snapshot or an imported template; every word
// of it is checked here. Fuzz target: fuzz-layer-map.
//
// Little-endian: Header, then for each chunk that has a bit set its index and its bits, indices
// ascending; then the CRC-32C of all that.

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "devices/block/layer_map.h"
#include "hypervisor/base/crc32c.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

constexpr std::array<char, 8> kMagic = {'S', 'P', 'O', 'R', 'L', 'M', 'A', 'P'};
constexpr uint32_t kVersion = 1;

struct Header {
    std::array<char, 8> magic;
    uint32_t version;
    uint32_t cluster_bytes;
    uint64_t clusters;
    uint64_t clusters_held;
    uint64_t chunks;
};
static_assert(sizeof(Header) == 40);
using Crc = uint32_t;

// Puts `value` at the beginning of `bytes`, which are enough, and moves past it.
template <typename T>
void put(std::span<std::byte>& bytes, const T& value) {
    std::memcpy(bytes.data(), &value, sizeof(T));
    bytes = bytes.subspan(sizeof(T));
}

// The T that stands at the beginning of `bytes`, which is long enough, and moves past it.
template <typename T>
T take(std::span<const std::byte>& bytes) {
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    bytes = bytes.subspan(sizeof(T));
    return value;
}

std::unexpected<Error> corrupt(std::string_view what, uint64_t value, uint64_t bound) {
    return fail(Code::corrupt, "layer map: " + std::string(what) + " is " + std::to_string(value) +
                                   "; the bound is " + std::to_string(bound));
}

}  // namespace

std::vector<std::byte> LayerMap::serialize() const {
    Header header = {kMagic, kVersion, kClusterBytes, clusters_, count_, 0};
    for (const auto& chunk : chunks_)
        header.chunks += chunk != nullptr;
    std::vector<std::byte> out(sizeof(Header) + header.chunks * (sizeof(uint64_t) + sizeof(Chunk)) +
                               sizeof(Crc));
    std::span<std::byte> rest = out;
    put(rest, header);
    for (uint64_t index = 0; index < chunks_.size(); index++) {
        if (chunks_[index]) {
            put(rest, index);
            put(rest, *chunks_[index]);
        }
    }
    put(rest, Crc{crc32c(std::span(out).first(out.size() - sizeof(Crc)))});
    return out;
}

Result<LayerMap> LayerMap::parse(std::span<const std::byte> bytes) {
    constexpr size_t kEntryBytes = sizeof(uint64_t) + sizeof(Chunk);
    if (bytes.size() < sizeof(Header) + sizeof(Crc))
        return corrupt("size in bytes", bytes.size(), sizeof(Header) + sizeof(Crc));
    auto last = bytes.last(sizeof(Crc));
    bytes = bytes.first(bytes.size() - sizeof(Crc));
    if (take<Crc>(last) != crc32c(bytes))
        return fail(Code::corrupt, "layer map: checksum does not match");

    auto header = take<Header>(bytes);
    if (header.magic != kMagic)
        return fail(Code::corrupt, "layer map: is none (wrong identifier)");
    if (header.version != kVersion)
        return fail(Code::version_mismatch,
                    "layer map: version is " + std::to_string(header.version) +
                        "; this build reads version " + std::to_string(kVersion));
    if (header.cluster_bytes != kClusterBytes)
        return corrupt("cluster size in bytes", header.cluster_bytes, kClusterBytes);
    constexpr uint64_t kClustersMax = limits::kLayeredDiskBytesMax / kClusterBytes;
    if (header.clusters == 0 || header.clusters > kClustersMax)
        return corrupt("number of clusters", header.clusters, kClustersMax);
    if (bytes.size() % kEntryBytes != 0 || header.chunks != bytes.size() / kEntryBytes)
        return corrupt("number of chunks", header.chunks, bytes.size() / kEntryBytes);

    LayerMap map(header.clusters);
    for (uint64_t next = 0; !bytes.empty();) {
        auto index = take<uint64_t>(bytes);
        if (index < next || index >= map.chunks_.size())
            return corrupt("index of a chunk", index, map.chunks_.size());
        next = index + 1;
        map.chunks_[index] = std::make_unique<Chunk>(take<Chunk>(bytes));
        uint64_t held = 0;
        for (uint64_t word : *map.chunks_[index])
            held += static_cast<uint64_t>(std::popcount(word));
        if (held == 0)
            return corrupt("clusters held in a chunk", held, 1);
        map.count_ += held;
    }
    if (map.count_ != header.clusters_held)
        return corrupt("clusters held", header.clusters_held, map.count_);
    // Bits beyond the end, in the last chunk.
    if (const auto& chunk = map.chunks_.back()) {
        uint64_t end = (map.clusters_ - 1) % kChunkClusters + 1;
        for (uint64_t cluster = end; cluster < kChunkClusters; cluster++) {
            if (((*chunk)[word_of(cluster)] >> cluster % 64 & 1) != 0)
                return corrupt("cluster held", cluster, end - 1);
        }
    }
    return map;
}

Status LayerMap::save(const std::string& path) const {
    std::vector<std::byte> bytes = serialize();
    std::string beside = path + ".new";
    UniqueFd file(::open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno("layer map '" + beside + "'");
    auto give_up = [&] {
        auto error = fail_errno("writing layer map '" + beside + "'");
        ::unlink(beside.c_str());
        return error;
    };
    for (size_t done = 0; done < bytes.size();) {
        ssize_t written = ::write(file.get(), bytes.data() + done, bytes.size() - done);
        if (written < 0)
            return give_up();
        done += static_cast<size_t>(written);
    }
    if (::fsync(file.get()) < 0 || ::rename(beside.c_str(), path.c_str()) < 0)
        return give_up();
    return {};
}

Result<LayerMap> LayerMap::load(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file)
        return fail_errno("layer map '" + path + "'");
    return read(file.get(), path);
}

Result<LayerMap> LayerMap::read(int file, const std::string& name) {
    struct stat status = {};
    if (::fstat(file, &status) < 0)
        return fail_errno("fstat of layer map '" + name + "'");
    // No map is larger than one with every chunk of the largest disk.
    constexpr uint64_t kBytesMax = limits::kLayeredDiskBytesMax / (kClusterBytes * kChunkClusters) *
                                       (sizeof(uint64_t) + sizeof(Chunk)) +
                                   sizeof(Header) + sizeof(Crc);
    if (!S_ISREG(status.st_mode))
        return fail(Code::corrupt, "layer map '" + name + "': is no file");
    if (static_cast<uint64_t>(status.st_size) > kBytesMax)
        return corrupt("size in bytes of '" + name + "'", static_cast<uint64_t>(status.st_size),
                       kBytesMax);
    std::vector<std::byte> bytes(static_cast<size_t>(status.st_size));
    for (size_t done = 0; done < bytes.size();) {
        ssize_t got =
            ::pread(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (got < 0)
            return fail_errno("reading layer map '" + name + "'");
        if (got == 0)
            return fail(Code::corrupt, "layer map '" + name + "': got shorter while it was read");
        done += static_cast<size_t>(got);
    }
    auto map = parse(bytes);
    if (!map)
        return std::unexpected(std::move(map).error().within("'" + name + "'"));
    return map;
}

}  // namespace spore
