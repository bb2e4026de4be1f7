#include "devices/virtio/block.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

namespace spore {

namespace {

constexpr size_t kIdBytes = VIRTIO_BLK_ID_BYTES;
}  // namespace

Result<std::unique_ptr<VirtioBlock>> VirtioBlock::create(const GuestMemory& memory, EventLoop& loop,
                                                         const BlockConfig& config,
                                                         std::string name) {
    if (config.queues < 1 || config.queues > limits::kBlockQueuesMax)
        return fail(Code::invalid_argument, "disk: queues: " + std::to_string(config.queues) +
                                                " is not within 1.." +
                                                std::to_string(limits::kBlockQueuesMax));
    if (config.id.size() > kIdBytes)
        return fail(Code::invalid_argument, "disk: id: '" + config.id + "' has " +
                                                std::to_string(config.id.size()) +
                                                " bytes; the bound is 20");
    std::unique_ptr<Disk> disk = TRY(open_disk(loop, config));
    Options options;
    options.name = std::move(name);
    options.id = config.id;
    options.queues = config.queues;
    return std::make_unique<VirtioBlock>(memory, loop, std::move(disk), std::move(options));
}

VirtioBlock::VirtioBlock(const GuestMemory& memory, EventLoop& loop, std::unique_ptr<Disk> disk,
                         Options options)
    : VirtioDevice(VIRTIO_ID_BLOCK, memory, loop,
                   std::vector<uint16_t>(options.queues, options.queue_size)),
      options_(std::move(options)),
      disk_(std::move(disk)) {
    assert(options_.queues >= 1 && options_.queues <= limits::kBlockQueuesMax);
}

VirtioBlock::~VirtioBlock() {
    assert(in_flight_ == 0);
}

uint64_t VirtioBlock::device_features() const {
    uint64_t features = feature_bit(VIRTIO_BLK_F_SIZE_MAX) | feature_bit(VIRTIO_BLK_F_SEG_MAX) |
                        feature_bit(VIRTIO_BLK_F_BLK_SIZE) | feature_bit(VIRTIO_BLK_F_TOPOLOGY) |
                        feature_bit(VIRTIO_BLK_F_FLUSH);
    if (disk_->read_only())
        features |= feature_bit(VIRTIO_BLK_F_RO);
    else
        features |= feature_bit(VIRTIO_BLK_F_DISCARD) | feature_bit(VIRTIO_BLK_F_WRITE_ZEROES);
    if (options_.queues > 1)
        features |= feature_bit(VIRTIO_BLK_F_MQ);
    return features;
}

void VirtioBlock::read_config(uint32_t offset, std::span<std::byte> bytes) const {
    virtio_blk_config config = {};
    config.capacity = disk_->capacity() / kSectorBytes;
    config.size_max = kSegmentBytesMax;
    config.seg_max = kSegmentsMax;
    // Addressed in sectors, as images partitioned elsewhere expect; best written in clusters.
    config.blk_size = kSectorBytes;
    config.physical_block_exp = 3;
    config.min_io_size = 8;
    config.num_queues = options_.queues;
    config.max_discard_sectors = kDiscardSectorsMax;
    config.max_discard_seg = kDiscardRangesMax;
    config.discard_sector_alignment = 8;
    config.max_write_zeroes_sectors = kWriteZeroesSectorsMax;
    config.max_write_zeroes_seg = kDiscardRangesMax;
    config.write_zeroes_may_unmap = 1;
    std::ranges::fill(bytes, std::byte{0});
    if (offset < sizeof(config))
        std::memcpy(bytes.data(), reinterpret_cast<const std::byte*>(&config) + offset,
                    std::min(bytes.size(), sizeof(config) - offset));
}

Status VirtioBlock::grow(uint64_t bytes) {
    uint64_t before = disk_->capacity();
    TRY(disk_->grow(bytes));
    grown_ = grown_ || disk_->capacity() != before;
    if (active())
        start_io();
    return {};
}

void VirtioBlock::start_io() {
    if (std::exchange(grown_, false) && line_ != nullptr)
        line_->config_changed();
}

void VirtioBlock::process() {
    if (rate_.waiting())
        return;  // its end comes back to this
    // A device that is full goes on from end_batch(); the next queue is first then.
    for (uint16_t count = 0; count < options_.queues && !failed() && !rate_.waiting(); count++)
        serve(static_cast<uint16_t>((first_queue_ + count) % options_.queues));
    first_queue_ = static_cast<uint16_t>((first_queue_ + 1) % options_.queues);
}

void VirtioBlock::serve(uint16_t index) {
    Queue& queue = queues()[index];
    do {
        queue.disable_kicks();
        for (;;) {
            if (in_flight_ >= limits::kBlockRequestsInFlightMax)
                return;
            auto chain = queue.pop();
            if (!chain) {
                device_error(chain.error(), index);
                return;
            }
            if (!*chain)
                break;
            if (rate_.limited() && !may_start(**chain)) {
                queue.unpop(std::move(**chain));
                return;
            }
            start(index, std::move(**chain));
            if (failed())
                return;
        }
    } while (queue.enable_kicks());
}

// By its length alone, which was copied with the chain: what the header says may change yet. What
// ranges add is charged when they are known (begin_ranges).
bool VirtioBlock::may_start(const DescriptorChain& chain) {
    size_t readable = chain.readable_bytes(), writable = chain.writable_bytes();
    constexpr size_t kHeader = sizeof(virtio_blk_outhdr), kStatus = 1;
    return rate_.admit((readable > kHeader ? readable - kHeader : 0) +
                           (writable > kStatus ? writable - kStatus : 0),
                       1);
}

}  // namespace spore
