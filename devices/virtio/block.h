#pragma once

// The virtio block device (virtio 1.2 §5.2).

#include <linux/virtio_blk.h>

#include <memory>
#include <string>
#include <vector>

#include "devices/block/open_disk.h"
#include "devices/virtio/device.h"
#include "devices/virtio/rate_limit.h"

namespace spore {

struct BlockStatistics {
    uint64_t reads = 0, read_bytes = 0;  // requests that ended well, and their data
    uint64_t writes = 0, written_bytes = 0;
    uint64_t flushes = 0;
    uint64_t discards = 0;  // write-zeroes included
};

// Requests from all queues are started in the order they are popped, and end in any. At most
// limits::kBlockRequestsInFlightMax are worked on; the rest stay in the queues. A malformed request
// fails with VIRTIO_BLK_S_IOERR, an unknown one with _UNSUPP, both counted as guest errors; only a
// chain without room for that status fails the device.
class VirtioBlock : public VirtioDevice {
  public:
    struct Options {
        std::string name = "block0";
        std::string id;       // cut at 20 bytes
        uint16_t queues = 1;  // 1..limits::kBlockQueuesMax (asserted)
        uint16_t queue_size = limits::kQueueSizeMax;
    };

    // Opens the disk too; errors as of open_disk(), and invalid_argument for `id` and `queues`.
    static Result<std::unique_ptr<VirtioBlock>> create(const GuestMemory& memory, EventLoop& loop,
                                                       const BlockConfig& config,
                                                       std::string name = "block0");
    VirtioBlock(const GuestMemory& memory, EventLoop& loop, std::unique_ptr<Disk> disk,
                Options options);
    ~VirtioBlock() override;

    const char* name() const override { return options_.name.c_str(); }
    void read_config(uint32_t offset, std::span<std::byte> bytes) const override;

    Disk& disk() { return *disk_; }
    // Makes the disk larger and tells the driver (virtio 1.2 §5.2.4), which asks for the size
    // again; one that does not run yet, when it does. Errors as Disk::grow().
    Status grow(uint64_t bytes);
    const BlockStatistics& statistics() const { return statistics_; }
    // Bytes and requests in a second, flushes and each range of a discard included. The limits are
    // the host's alone: a snapshot has none of them.
    RateLimiter& rate() { return rate_; }
    // The first failure of the host's file so far, as a positive errno; 0 if none.
    int first_host_error() const { return first_host_error_; }

    // What the configuration space announces and parse() enforces.
    static constexpr uint32_t kSegmentsMax = limits::kQueueSizeMax - 2;  // header and status
    static constexpr uint32_t kSegmentBytesMax = 64 * limits::kKiB;
    static_assert(uint64_t{kSegmentsMax} * kSegmentBytesMax + 17 <= limits::kChainBytesMax);
    static constexpr uint32_t kDiscardRangesMax = 16;
    static constexpr uint32_t kDiscardSectorsMax = limits::kGiB / kSectorBytes;
    // Less than for discards: a file system that cannot make zeros has them written.
    static constexpr uint32_t kWriteZeroesSectorsMax = 32 * limits::kMiB / kSectorBytes;

  protected:
    uint64_t device_features() const override;
    void process() override;
    void start_io() override;
    void stop_io() override { rate_.stop(); }

  private:
    // One request between pop and push; from a pool.
    struct Request {
        explicit Request(VirtioBlock& device)
            : disk_request([&device, this](int32_t result) { device.step_done(*this, result); }) {}
        DescriptorChain chain;
        uint16_t queue = 0;
        uint32_t type = 0;
        uint64_t data_bytes = 0;
        std::vector<iovec> data;
        std::vector<virtio_blk_discard_write_zeroes> ranges;
        size_t next_range = 0;
        bool flushing = false;  // a write through: its data is written, the flush is on
        DiskRequest disk_request;
    };

    void serve(uint16_t queue);
    bool may_start(const DescriptorChain& chain);
    void start(uint16_t queue, DescriptorChain chain);
    // What to do about `request`: VIRTIO_BLK_S_OK when it was started, else how it ends.
    uint8_t begin_io(Request& request);
    uint8_t begin_transfer(Request& request, uint64_t sector);
    uint8_t begin_ranges(Request& request);
    void charge_ranges(const Request& request);
    uint8_t answer_id(Request& request);
    void next_range(Request& request);
    void step_done(Request& request, int32_t result);
    void count(const Request& request);
    void finish(Request& request, uint8_t status);
    void end_batch();

    Options options_;
    std::unique_ptr<Disk> disk_;
    BlockStatistics statistics_;
    int first_host_error_ = 0;
    bool grown_ = false;  // and the driver does not know yet

    std::vector<std::unique_ptr<Request>> requests_;
    std::vector<Request*> free_requests_;
    uint32_t in_flight_ = 0;  // popped and not yet through end_batch()
    uint32_t ended_ = 0;      // of those, the ones pushed; > 0: end_batch() is due
    uint16_t first_queue_ = 0;
    bool used_[limits::kBlockQueuesMax] = {};
    RateLimiter rate_{loop_, [this] { begin_request(); },
                      [this] {
                          kick();
                          end_request();
                      }};
};

}  // namespace spore
