// One block request from its chain to its status. UNTRUSTED: header, sectors, lengths and ranges
// are the guest's; each is copied out once and checked here. Fuzz target: fuzz-block.

#include <algorithm>
#include <array>
#include <cassert>
#include <optional>

#include "devices/virtio/block.h"

namespace spore {

namespace {

constexpr size_t kHeaderBytes = sizeof(virtio_blk_outhdr);
constexpr size_t kStatusBytes = 1;

// The byte offset of `sector` if `bytes` from there on are within `capacity`; else nothing.
std::optional<uint64_t> checked_offset(uint64_t sector, uint64_t bytes, uint64_t capacity) {
    uint64_t offset = 0;
    if (__builtin_mul_overflow(sector, kSectorBytes, &offset) || offset > capacity ||
        bytes > capacity - offset)
        return std::nullopt;
    return offset;
}

bool is_range_request(uint32_t type) {
    return type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
}

}  // namespace

void VirtioBlock::start(uint16_t queue, DescriptorChain chain) {
    if (chain.writable_bytes() < kStatusBytes) {
        chain.forget();  // the driver gets nothing back before it resets
        device_error({Code::corrupt, "a request has no room for its status"}, queue);
        return;
    }
    if (free_requests_.empty()) {
        requests_.push_back(std::make_unique<Request>(*this));
        free_requests_.reserve(requests_.size());
        free_requests_.push_back(requests_.back().get());
    }
    Request& request = *free_requests_.back();
    free_requests_.pop_back();
    request.chain = std::move(chain);
    request.queue = queue;
    request.data_bytes = 0;
    request.data.clear();
    request.flushing = false;
    in_flight_++;
    begin_request();
    if (uint8_t status = begin_io(request); status != VIRTIO_BLK_S_OK) {
        counters_.guest_errors++;
        finish(request, status);
    }
}

uint8_t VirtioBlock::begin_io(Request& request) {
    auto header = request.chain.read<virtio_blk_outhdr>();
    if (!header)
        return VIRTIO_BLK_S_IOERR;
    request.type = header->type;
    switch (header->type) {
        case VIRTIO_BLK_T_IN:
        case VIRTIO_BLK_T_OUT:
            return begin_transfer(request, header->sector);
        case VIRTIO_BLK_T_FLUSH:
            disk_->flush(request.disk_request);
            return VIRTIO_BLK_S_OK;
        case VIRTIO_BLK_T_DISCARD:
            return has_feature(VIRTIO_BLK_F_DISCARD) ? begin_ranges(request)
                   : disk_->read_only()              ? VIRTIO_BLK_S_IOERR
                                                     : VIRTIO_BLK_S_UNSUPP;
        case VIRTIO_BLK_T_WRITE_ZEROES:
            return has_feature(VIRTIO_BLK_F_WRITE_ZEROES) ? begin_ranges(request)
                   : disk_->read_only()                   ? VIRTIO_BLK_S_IOERR
                                                          : VIRTIO_BLK_S_UNSUPP;
        case VIRTIO_BLK_T_GET_ID:
            return answer_id(request);
        default:
            return VIRTIO_BLK_S_UNSUPP;
    }
}

uint8_t VirtioBlock::begin_transfer(Request& request, uint64_t sector) {
    bool is_read = request.type == VIRTIO_BLK_T_IN;
    if (!is_read && disk_->read_only())  // virtio 1.2 §5.2.6.2
        return VIRTIO_BLK_S_IOERR;
    const DescriptorChain& chain = request.chain;
    size_t bytes =
        is_read ? chain.writable_bytes() - kStatusBytes : chain.readable_bytes() - kHeaderBytes;
    if (bytes == 0 || bytes % kSectorBytes != 0)
        return VIRTIO_BLK_S_IOERR;
    auto offset = checked_offset(sector, bytes, disk_->capacity());
    if (!offset)
        return VIRTIO_BLK_S_IOERR;
    request.data_bytes = bytes;
    if (is_read) {
        slice(chain.writable(), 0, bytes, request.data);
        disk_->read(request.data, *offset, request.disk_request);
    } else {
        slice(chain.readable(), kHeaderBytes, bytes, request.data);
        disk_->write(request.data, *offset, request.disk_request);
    }
    return VIRTIO_BLK_S_OK;
}

// All ranges are copied and checked before the first is carried out.
uint8_t VirtioBlock::begin_ranges(Request& request) {
    using Range = virtio_blk_discard_write_zeroes;
    size_t bytes = request.chain.readable_bytes() - kHeaderBytes;
    size_t count = bytes / sizeof(Range);
    if (bytes % sizeof(Range) != 0 || count == 0 || count > kDiscardRangesMax)
        return VIRTIO_BLK_S_IOERR;
    bool is_discard = request.type == VIRTIO_BLK_T_DISCARD;
    request.ranges.clear();
    for (size_t index = 0; index < count; index++) {
        auto range = request.chain.read<Range>(kHeaderBytes + index * sizeof(Range));
        assert(range.has_value());
        // virtio 1.2 §5.2.6.2: unmap means nothing to a discard, the other bits to nobody.
        if ((range->flags & ~(is_discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)) != 0)
            return VIRTIO_BLK_S_UNSUPP;
        uint32_t sectors_max = is_discard ? kDiscardSectorsMax : kWriteZeroesSectorsMax;
        if (range->num_sectors > sectors_max ||
            !checked_offset(range->sector, range->num_sectors * kSectorBytes, disk_->capacity()))
            return VIRTIO_BLK_S_IOERR;
        if (range->num_sectors > 0)
            request.ranges.push_back(*range);
    }
    if (request.ranges.empty())
        return VIRTIO_BLK_S_IOERR;
    if (rate_.limited())
        charge_ranges(request);
    request.next_range = 0;
    next_range(request);
    return VIRTIO_BLK_S_OK;
}

// Zeros count as bytes: where the host's file system cannot make them they are written.
void VirtioBlock::charge_ranges(const Request& request) {
    uint64_t bytes = 0;
    for (const auto& range : request.ranges)
        bytes += range.num_sectors * kSectorBytes;
    rate_.charge(request.type == VIRTIO_BLK_T_DISCARD ? 0 : bytes, request.ranges.size() - 1);
}

void VirtioBlock::next_range(Request& request) {
    const auto& range = request.ranges[request.next_range++];
    uint64_t offset = range.sector * kSectorBytes;
    uint64_t bytes = range.num_sectors * kSectorBytes;
    bool unmap = (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
    if (request.type == VIRTIO_BLK_T_DISCARD)
        disk_->discard(offset, bytes, request.disk_request);
    else
        disk_->write_zeroes(offset, bytes, unmap, request.disk_request);
}

// virtio 1.2 §5.2.6: 20 bytes, padded with zeros.
uint8_t VirtioBlock::answer_id(Request& request) {
    std::array<char, VIRTIO_BLK_ID_BYTES> id = {};
    std::copy_n(options_.id.begin(), std::min(options_.id.size(), id.size()), id.begin());
    if (request.chain.writable_bytes() < id.size() + kStatusBytes ||
        !request.chain.write(id).has_value())
        return VIRTIO_BLK_S_IOERR;
    request.data_bytes = id.size();
    finish(request, VIRTIO_BLK_S_OK);
    return VIRTIO_BLK_S_OK;
}

void VirtioBlock::step_done(Request& request, int32_t result) {
    if (result == -EOPNOTSUPP && is_range_request(request.type)) {
        finish(request, VIRTIO_BLK_S_UNSUPP);  // the host file's limits are nobody's error
        return;
    }
    if (result < 0) {
        counters_.host_errors++;
        if (first_host_error_ == 0)
            first_host_error_ = -result;
        finish(request, VIRTIO_BLK_S_IOERR);
        return;
    }
    if (is_range_request(request.type) && request.next_range < request.ranges.size()) {
        next_range(request);
        return;
    }
    // §5.2.6.2: without FLUSH the driver takes a write that ended for durable.
    bool writes = request.type != VIRTIO_BLK_T_IN && request.type != VIRTIO_BLK_T_FLUSH;
    if (writes && !has_feature(VIRTIO_BLK_F_FLUSH) && !request.flushing) {
        request.flushing = true;
        disk_->flush(request.disk_request);
        return;
    }
    count(request);
    finish(request, VIRTIO_BLK_S_OK);
}

void VirtioBlock::count(const Request& request) {
    switch (request.type) {
        case VIRTIO_BLK_T_IN:
            statistics_.reads++;
            statistics_.read_bytes += request.data_bytes;
            break;
        case VIRTIO_BLK_T_OUT:
            statistics_.writes++;
            statistics_.written_bytes += request.data_bytes;
            break;
        case VIRTIO_BLK_T_FLUSH:
            statistics_.flushes++;
            break;
        default:
            statistics_.discards++;
    }
}

void VirtioBlock::finish(Request& request, uint8_t status) {
    [[maybe_unused]] auto written =
        request.chain.write(status, request.chain.writable_bytes() - kStatusBytes);
    assert(written.has_value());
    bool filled = status == VIRTIO_BLK_S_OK &&
                  (request.type == VIRTIO_BLK_T_IN || request.type == VIRTIO_BLK_T_GET_ID);
    auto used = static_cast<uint32_t>(kStatusBytes + (filled ? request.data_bytes : 0));
    queues()[request.queue].push(std::move(request.chain), used);
    used_[request.queue] = true;
    free_requests_.push_back(&request);
    // One interrupt for all that ends in this turn of the loop. What has ended counts as in flight
    // until then, so that a guest with ever more malformed requests lets the loop come round.
    if (ended_++ == 0) {
        begin_request();
        loop_.defer([this] { end_batch(); });
    }
    end_request();
}

void VirtioBlock::end_batch() {
    in_flight_ -= ended_;
    ended_ = 0;
    for (uint16_t queue = 0; queue < options_.queues; queue++) {
        if (std::exchange(used_[queue], false))
            notify_used(queue);
    }
    kick();         // what waited for room
    end_request();  // last: whoever waits for this may drop the device
}

}  // namespace spore
