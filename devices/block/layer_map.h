#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"

namespace spore {

// Which clusters of a disk one layer holds: one bit each, in memory only where any is set (at most
// 32 KiB for each GiB of disk). A cluster that a layer holds hides those below it, also when it is
// a hole in the layer's file, which reads as zeros.
class LayerMap {
  public:
    static constexpr uint64_t kClusterBytes = 4096;

    // Of a disk of `disk_bytes`: a multiple of kClusterBytes, at most limits::kLayeredDiskBytesMax.
    // Errors: invalid_argument.
    static Result<LayerMap> create(uint64_t disk_bytes);

    uint64_t disk_bytes() const { return clusters_ * kClusterBytes; }
    uint64_t clusters() const { return clusters_; }
    // Clusters held.
    uint64_t count() const { return count_; }

    // Whether the layer holds `cluster`; none beyond its own end.
    bool test(uint64_t cluster) const {
        if (cluster >= clusters_)
            return false;
        const Chunk* chunk = chunks_[cluster / kChunkClusters].get();
        return chunk != nullptr && ((*chunk)[word_of(cluster)] >> cluster % 64 & 1) != 0;
    }
    // Makes it that of a larger disk (asserted), of whose end nothing is held. Errors as create().
    Status grow(uint64_t disk_bytes);
    // Marks [first, last) as held; within the disk (asserted).
    void set(uint64_t first, uint64_t last);
    // Whether all of [first, last) are held.
    bool holds_all(uint64_t first, uint64_t last) const;

    // The map as bytes, and back. parse() takes bytes from anywhere: errors are corrupt, or
    // version_mismatch for a whole file of another version.
    std::vector<std::byte> serialize() const;
    static Result<LayerMap> parse(std::span<const std::byte> bytes);

    // Replaces the file at `path` by the map as it is, on stable storage when this returns; and
    // reads one. Both block.
    Status save(const std::string& path) const;
    static Result<LayerMap> load(const std::string& path);
    // The same of a file that is open already; `name` begins messages.
    static Result<LayerMap> read(int file, const std::string& name);

    bool operator==(const LayerMap& other) const;

  private:
    static constexpr uint64_t kChunkClusters = 32768;  // 128 MiB of disk, 4 KiB of bits
    using Chunk = std::array<uint64_t, kChunkClusters / 64>;

    explicit LayerMap(uint64_t clusters)
        : clusters_(clusters), chunks_((clusters + kChunkClusters - 1) / kChunkClusters) {}
    static size_t word_of(uint64_t cluster) { return cluster % kChunkClusters / 64; }

    uint64_t clusters_ = 0;
    uint64_t count_ = 0;
    std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace spore
