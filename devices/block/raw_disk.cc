#include "devices/block/raw_disk.h"

namespace spore {

namespace {

size_t total_size(std::span<const iovec> buffers) {
    size_t size = 0;
    for (const iovec& buffer : buffers)
        size += buffer.iov_len;
    return size;
}

}  // namespace

Result<std::unique_ptr<RawDisk>> RawDisk::create(EventLoop& loop, DiskFile file) {
    RingFile ring_file = TRY(loop.add_file(std::move(file.fd)));
    return std::unique_ptr<RawDisk>(
        new RawDisk(loop, std::move(ring_file), file.bytes, !file.writable));
}

RawDisk::RawDisk(EventLoop& loop, RingFile file, uint64_t capacity, bool read_only)
    : loop_(loop), file_(std::move(file)), transfers_(loop) {
    capacity_ = capacity;
    read_only_ = read_only;
}

// Disk's promise: never from inside the call.
void RawDisk::end_soon(DiskRequest& request, int32_t result) {
    loop_.defer([this, &request, result] { complete(request, result); });
}

bool RawDisk::refuse_write(DiskRequest& request) {
    if (read_only_)
        end_soon(request, -EROFS);
    return read_only_;
}

void RawDisk::read(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) {
    assert(within(offset, total_size(buffers)) && buffers.size() <= kBuffersMax);
    begin(request);
    FileTransfer& transfer = transfers_.take();
    transfer.buffers().assign(buffers.begin(), buffers.end());
    transfer.read(file_, offset, ending(request));
}

void RawDisk::write(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) {
    assert(within(offset, total_size(buffers)) && buffers.size() <= kBuffersMax);
    begin(request);
    if (refuse_write(request))
        return;
    FileTransfer& transfer = transfers_.take();
    transfer.buffers().assign(buffers.begin(), buffers.end());
    transfer.write(file_, offset, ending(request));
}

void RawDisk::flush(DiskRequest& request) {
    begin(request);
    if (read_only_)
        end_soon(request, 0);
    else
        transfers_.take().sync(file_, ending(request));
}

void RawDisk::discard(uint64_t offset, uint64_t size, DiskRequest& request) {
    assert(within(offset, size) && size > 0);
    begin(request);
    if (!refuse_write(request))
        transfers_.take().punch(file_, offset, size, ending(request));
}

void RawDisk::write_zeroes(uint64_t offset, uint64_t size, bool unmap, DiskRequest& request) {
    assert(within(offset, size) && size > 0);
    begin(request);
    if (!refuse_write(request))
        transfers_.take().zero(file_, offset, size, unmap, ending(request));
}

}  // namespace spore
