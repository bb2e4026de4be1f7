#pragma once

#include <memory>
#include <vector>

#include "hypervisor/io/event_loop.h"

namespace spore {

class FileTransferPool;

// One piece of work on one file, taken to its end: goes on after short reads and writes, and writes
// zeros where the file system cannot make them. Comes from a pool and returns there by itself just
// before `done` is called, with 0 or -errno, from the ring.
class FileTransfer {
  public:
    using Done = std::move_only_function<void(int32_t result)>;

    // The buffers of read() and write(): empty at first, to be filled before the call.
    std::vector<iovec>& buffers() { return buffers_; }

    // The end of the file comes out as -EIO: a disk's file is as long as the disk.
    void read(const RingFile& file, uint64_t offset, Done done);
    void write(const RingFile& file, uint64_t offset, Done done);
    void sync(const RingFile& file, Done done);
    void punch(const RingFile& file, uint64_t offset, uint64_t size, Done done);
    // The range reads as zeros afterwards; with `unmap` it is a hole if the file can have one.
    void zero(const RingFile& file, uint64_t offset, uint64_t size, bool unmap, Done done);

  private:
    friend class FileTransferPool;
    enum class Kind { read, write, sync, punch, zero_punch, zero_range, zero_write };

    FileTransfer(EventLoop& loop, FileTransferPool& pool)
        : loop_(loop), pool_(pool), op_([this](int32_t result) { on_result(result); }) {}
    void start(Kind kind, const RingFile& file, uint64_t offset, uint64_t size, Done done);
    void submit();
    void on_result(int32_t result);
    void advance(size_t bytes);
    void finish(int32_t result);

    EventLoop& loop_;
    FileTransferPool& pool_;
    Kind kind_ = Kind::sync;
    const RingFile* file_ = nullptr;
    uint64_t offset_ = 0;
    uint64_t left_ = 0;
    size_t first_ = 0;  // the buffer to go on with
    std::vector<iovec> buffers_;
    Done done_;
    Operation op_;
};

// As many transfers as were ever needed at once. Every one must be back when the pool goes.
class FileTransferPool {
  public:
    explicit FileTransferPool(EventLoop& loop) : loop_(loop) {}
    FileTransferPool(const FileTransferPool&) = delete;
    FileTransferPool& operator=(const FileTransferPool&) = delete;
    FileTransfer& take();

  private:
    friend class FileTransfer;
    EventLoop& loop_;
    std::vector<std::unique_ptr<FileTransfer>> all_;
    std::vector<FileTransfer*> free_;
};

}  // namespace spore
