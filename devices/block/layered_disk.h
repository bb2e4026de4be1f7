#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "devices/block/disk.h"
#include "devices/block/file_transfer.h"
#include "devices/block/layer_map.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

// A disk of layers, copy-on-write in clusters of 4 KiB: a raw base image, read-only layers above
// it, and a private top that takes every write. A cluster is read from the newest layer that holds
// it, else from the base, else it is zeros.
//
// What is in flight: a request that gives the top its first copy of any cluster ("allocates") has
// its range of clusters to itself among such requests, as two of them would each carry the bytes
// around their own from below and wipe out the other's; later ones wait. A request to clusters that
// the top already holds goes straight through, and so do reads, which see a cluster's old content
// until the request that allocates it ends.
class LayeredDisk : public Disk {
  public:
    struct Layer {
        DiskFile file;  // opened read-only
        LayerMap map;
    };
    struct Parts {
        std::optional<DiskFile> base;  // opened read-only
        std::vector<Layer> layers;     // oldest first; at most limits::kDiskLayersMax
        std::optional<Layer> top;      // opened for writing; none: the disk is read-only
        uint64_t bytes = 0;            // the disk's: a multiple of 4096, no less than any layer's
    };

    // The top's file and map must be of the disk's size, a layer's file as long as its map says.
    // Errors: invalid_argument, resource_exhausted (the ring's table of files).
    static Result<std::unique_ptr<LayeredDisk>> create(EventLoop& loop, Parts parts);
    ~LayeredDisk() override;

    void read(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) override;
    void write(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) override;
    void flush(DiskRequest& request) override;
    // The same as write_zeroes() with `unmap`: what was discarded reads as zeros.
    void discard(uint64_t offset, uint64_t size, DiskRequest& request) override;
    // `unmap` or not, the top gets a hole: a sparse file has no space set aside to keep.
    void write_zeroes(uint64_t offset, uint64_t size, bool unmap, DiskRequest& request) override;

    Status grow(uint64_t bytes) override;

    // --- With nothing in flight (asserted): after the device's quiesce().
    // The top's map, to be kept with the top's file; the pair is a layer once a flush has ended.
    const LayerMap& top_map() const { return top().map; }
    Status save_map(const std::string& path) const { return top_map().save(path); }
    // Makes the top a read-only layer for good and `new_top`, an empty file of the disk's size, the
    // top: a snapshot of a VM that goes on. Errors leave all as it was: resource_exhausted with
    // kDiskLayersMax layers already.
    Status freeze(DiskFile new_top);

  private:
    static constexpr uint64_t kClusterBytes = LayerMap::kClusterBytes;
    // Pieces of one read that are in flight together; a read more scattered takes several rounds.
    static constexpr unsigned kPiecesMax = 32;

    // From the oldest to the newest; the top is the last.
    struct Level {
        RingFile file;
        std::string path;
        LayerMap map;        // of a base: of its clusters, unused
        bool whole = false;  // a base: holds all of its `bytes`
        uint64_t bytes = 0;

        bool holds(uint64_t cluster) const {
            return whole ? cluster * kClusterBytes < bytes : map.test(cluster);
        }
    };
    struct Piece {
        const Level* level = nullptr;  // none: zeros
        uint64_t bytes = 0;
    };
    enum class Kind { read, write, zero };
    // A request on its way; from a pool.
    struct Job {
        Kind kind = Kind::read;
        DiskRequest* request = nullptr;
        std::span<const iovec> buffers;
        uint64_t offset = 0;
        uint64_t end = 0;
        uint64_t position = 0;  // a read: what is planned so far
        unsigned pending = 0;
        int32_t result = 0;
        bool allocates = false;
        size_t prefix = 0;  // bytes of the first cluster before `offset`, to be carried up
        size_t suffix = 0;  // bytes of the last cluster from `end` on, likewise
        std::unique_ptr<std::array<std::byte, 2 * kClusterBytes>> carried;

        uint64_t first() const { return offset / kClusterBytes; }
        uint64_t last() const { return (end + kClusterBytes - 1) / kClusterBytes; }
        bool overlaps(const Job& other) const {
            return first() < other.last() && other.first() < last();
        }
        std::span<std::byte> prefix_bytes() { return {carried->data(), prefix}; }
        std::span<std::byte> suffix_bytes() { return {carried->data() + kClusterBytes, suffix}; }
    };

    LayeredDisk(EventLoop& loop, uint64_t bytes);
    Status add_level(DiskFile file, LayerMap map, bool whole);
    Level& top() { return levels_.back(); }
    const Level& top() const { return levels_.back(); }

    Job& take_job(Kind kind, DiskRequest& request, uint64_t offset, uint64_t size);
    void finish(Job& job);
    void finish_soon(Job& job);
    // What `bytes` from `offset` on come from, as far as it is one source.
    Piece piece_at(uint64_t offset, uint64_t bytes) const;
    FileTransfer::Done step(Job& job, void (LayeredDisk::*next)(Job&));

    void continue_read(Job& job);
    void end_read_round(Job& job);
    void change(Job& job);
    bool blocked(const Job& job, size_t waiting_before) const;
    void begin_change(Job& job);
    void carry(Job& job, uint64_t offset, std::span<std::byte> bytes);
    void apply(Job& job);
    void write_carried(Job& job);
    void finish_change(Job& job);
    void wake_waiting();

    EventLoop& loop_;
    std::vector<Level> levels_;
    FileTransferPool transfers_;
    std::vector<iovec> scratch_;  // buffers to be filled with zeros
    std::vector<std::unique_ptr<Job>> jobs_;
    std::vector<Job*> free_jobs_;
    std::vector<Job*> allocating_;  // in flight, their clusters disjoint
    std::vector<Job*> waiting_;     // for those, first come first
};

}  // namespace spore
