#pragma once

#include <memory>

#include "devices/block/disk.h"
#include "devices/block/file_transfer.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

// A file or block device, byte for byte.
class RawDisk : public Disk {
  public:
    // Read-only if `file` was opened so. Errors: the ring's table is full.
    static Result<std::unique_ptr<RawDisk>> create(EventLoop& loop, DiskFile file);

    void read(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) override;
    void write(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) override;
    void flush(DiskRequest& request) override;
    void discard(uint64_t offset, uint64_t size, DiskRequest& request) override;
    void write_zeroes(uint64_t offset, uint64_t size, bool unmap, DiskRequest& request) override;

  private:
    RawDisk(EventLoop& loop, RingFile file, uint64_t capacity, bool read_only);
    bool refuse_write(DiskRequest& request);
    void end_soon(DiskRequest& request, int32_t result);
    FileTransfer::Done ending(DiskRequest& request) {
        return [this, &request](int32_t result) { complete(request, result); };
    }

    EventLoop& loop_;
    RingFile file_;
    FileTransferPool transfers_;
};

}  // namespace spore
