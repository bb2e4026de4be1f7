// LayeredDisk's writes: which wait for which, and what a cluster's first copy takes along.

#include <algorithm>
#include <cstring>

#include "devices/block/layered_disk.h"

namespace spore {

void LayeredDisk::write(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) {
    assert(buffers.size() <= kBuffersMax);
    uint64_t size = 0;
    for (const iovec& buffer : buffers)
        size += buffer.iov_len;
    begin(request);
    Job& job = take_job(Kind::write, request, offset, size);
    job.buffers = buffers;
    change(job);
}

void LayeredDisk::discard(uint64_t offset, uint64_t size, DiskRequest& request) {
    write_zeroes(offset, size, true, request);
}

void LayeredDisk::write_zeroes(uint64_t offset, uint64_t size, bool, DiskRequest& request) {
    begin(request);
    change(take_job(Kind::zero, request, offset, size));
}

void LayeredDisk::change(Job& job) {
    if (read_only_) {
        job.result = -EROFS;
        finish_soon(job);
        return;
    }
    job.allocates = !top().map.holds_all(job.first(), job.last());
    if (job.allocates && blocked(job, waiting_.size()))
        waiting_.push_back(&job);
    else
        begin_change(job);
}

// Whether `job` must wait for one that allocates, or for one of the first `waiting_before` waiting.
bool LayeredDisk::blocked(const Job& job, size_t waiting_before) const {
    auto overlaps = [&job](const Job* other) { return other->overlaps(job); };
    return std::any_of(allocating_.begin(), allocating_.end(), overlaps) ||
           std::any_of(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(waiting_before),
                       overlaps);
}

// First round: reads what the first and the last cluster hold around the request's own bytes.
void LayeredDisk::begin_change(Job& job) {
    if (job.allocates) {
        allocating_.push_back(&job);
        if (!top().map.test(job.first()))
            job.prefix = job.offset % kClusterBytes;
        if (!top().map.test(job.last() - 1))
            job.suffix = (kClusterBytes - job.end % kClusterBytes) % kClusterBytes;
        if ((job.prefix > 0 || job.suffix > 0) && !job.carried)
            job.carried = std::make_unique<std::array<std::byte, 2 * kClusterBytes>>();
        if (job.prefix > 0)
            carry(job, job.offset - job.prefix, job.prefix_bytes());
        if (job.suffix > 0)
            carry(job, job.end, job.suffix_bytes());
    }
    if (job.pending == 0)
        apply(job);
}

void LayeredDisk::carry(Job& job, uint64_t offset, std::span<std::byte> bytes) {
    while (!bytes.empty()) {
        Piece piece = piece_at(offset, bytes.size());
        if (piece.level == nullptr) {
            std::memset(bytes.data(), 0, piece.bytes);
        } else {
            FileTransfer& transfer = transfers_.take();
            transfer.buffers().push_back({bytes.data(), piece.bytes});
            transfer.read(piece.level->file, offset, step(job, &LayeredDisk::apply));
        }
        offset += piece.bytes;
        bytes = bytes.subspan(piece.bytes);
    }
}

// Second round: the request itself; a write takes what is carried along in the same transfer.
void LayeredDisk::apply(Job& job) {
    if (job.result < 0) {
        finish_change(job);
        return;
    }
    uint64_t start = job.offset - job.prefix;
    FileTransfer& transfer = transfers_.take();
    if (job.kind == Kind::zero) {
        // Whole clusters where they are new: an earlier write that failed may have left bytes.
        transfer.zero(top().file, start, job.end + job.suffix - start, true,
                      step(job, &LayeredDisk::write_carried));
        return;
    }
    std::vector<iovec>& buffers = transfer.buffers();
    if (job.prefix > 0)
        buffers.push_back({job.prefix_bytes().data(), job.prefix});
    buffers.insert(buffers.end(), job.buffers.begin(), job.buffers.end());
    if (job.suffix > 0)
        buffers.push_back({job.suffix_bytes().data(), job.suffix});
    transfer.write(top().file, start, step(job, &LayeredDisk::finish_change));
}

// Third round, of zeros alone: puts what is carried around them.
void LayeredDisk::write_carried(Job& job) {
    if (job.result == 0 && job.prefix > 0) {
        FileTransfer& transfer = transfers_.take();
        transfer.buffers().push_back({job.prefix_bytes().data(), job.prefix});
        transfer.write(top().file, job.offset - job.prefix, step(job, &LayeredDisk::finish_change));
    }
    if (job.result == 0 && job.suffix > 0) {
        FileTransfer& transfer = transfers_.take();
        transfer.buffers().push_back({job.suffix_bytes().data(), job.suffix});
        transfer.write(top().file, job.end, step(job, &LayeredDisk::finish_change));
    }
    if (job.pending == 0)
        finish_change(job);
}

void LayeredDisk::finish_change(Job& job) {
    if (job.result == 0 && job.allocates)
        top().map.set(job.first(), job.last());
    if (job.allocates) {
        std::erase(allocating_, &job);
        wake_waiting();
    }
    finish(job);
}

// Starts, in their order, those waiting that nothing before them holds up any more.
void LayeredDisk::wake_waiting() {
    for (size_t index = 0; index < waiting_.size();) {
        Job& job = *waiting_[index];
        job.allocates = !top().map.holds_all(job.first(), job.last());
        if (job.allocates && blocked(job, index)) {
            index++;
            continue;
        }
        waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(index));
        begin_change(job);
    }
}

}  // namespace spore
