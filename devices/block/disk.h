#pragma once

// What a virtual disk's content comes from, asynchronously: every request ends through the ring.

#include <sys/uio.h>

#include <cassert>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// One request to a Disk and what to do when it is done: `result` is 0, or -errno with the bytes in
// question then undefined. Its owner keeps it, its buffers and their iovec array until then; it may
// be used again from inside its own handler.
class DiskRequest {
  public:
    using Handler = std::move_only_function<void(int32_t result)>;

    explicit DiskRequest(Handler on_complete) : on_complete_(std::move(on_complete)) {}
    DiskRequest(const DiskRequest&) = delete;
    DiskRequest& operator=(const DiskRequest&) = delete;
    ~DiskRequest() { assert(!in_flight_ && "a disk request died while the disk held it"); }

    bool in_flight() const { return in_flight_; }

  private:
    friend class Disk;
    Handler on_complete_;
    bool in_flight_ = false;
};

// Loop thread only. Requests may be in flight together in any number, end in any order and never
// from inside the call that starts them. Two that overlap leave the bytes of either. A range must
// lie within the capacity (asserted: the device checks what the guest says); offsets and sizes are
// in bytes. Writing requests to a read-only disk end with -EROFS. Nothing may be in flight when the
// disk goes.
class Disk {
  public:
    Disk() = default;
    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;
    virtual ~Disk() { assert(in_flight_ == 0 && "a disk died with requests in flight"); }

    uint64_t capacity() const { return capacity_; }
    bool read_only() const { return read_only_; }
    uint32_t in_flight() const { return in_flight_; }

    // At most kBuffersMax buffers; the range's size is their sum.
    static constexpr size_t kBuffersMax = 512;
    virtual void read(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) = 0;
    virtual void write(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) = 0;
    // What was written by requests that have ended is on stable storage when this ends.
    virtual void flush(DiskRequest& request) = 0;
    // The range's content is no longer wanted. -EOPNOTSUPP where the host file cannot do it.
    virtual void discard(uint64_t offset, uint64_t size, DiskRequest& request) = 0;
    // The range reads as zeros from now on; with `unmap` its space may be given back.
    virtual void write_zeroes(uint64_t offset, uint64_t size, bool unmap, DiskRequest& request) = 0;

    // Its capacity from now on, whatever is in flight; as it is: nothing happens. Errors:
    // host_unsupported, invalid_argument (no size for it, or less than its capacity), the host's.
    virtual Status grow(uint64_t bytes);

  protected:
    void begin(DiskRequest& request) {
        assert(!request.in_flight_ && "a disk request is used for one thing at a time");
        request.in_flight_ = true;
        in_flight_++;
    }
    void complete(DiskRequest& request, int32_t result) {
        assert(request.in_flight_);
        request.in_flight_ = false;
        in_flight_--;
        request.on_complete_(result);
    }
    bool within(uint64_t offset, uint64_t size) const {
        return offset <= capacity_ && size <= capacity_ - offset;
    }

    uint64_t capacity_ = 0;
    bool read_only_ = false;

  private:
    uint32_t in_flight_ = 0;
};

inline constexpr uint64_t kSectorBytes = 512;

// A host file that was opened, checked and locked as a disk's, before the jail closes or in it.
struct DiskFile {
    UniqueFd fd;
    std::string path;  // for messages
    uint64_t bytes = 0;
    bool writable = false;
};

enum class DiskAccess { read_only, read_write };

// Opens a regular file or block device, and locks it: shared for reading, alone for writing (open
// file description locks, so the lock goes with the descriptor to another process, and ends with
// it). Errors name the path: not_found, permission_denied, invalid_argument (no file or block
// device, or its size not a multiple of 512 or 0), unavailable when another VMM uses it. Blocks.
Result<DiskFile> open_disk_file(const std::string& path, DiskAccess access);

// Makes an empty sparse file of `bytes` at `path`, which must not exist (already_exists), opened
// and locked for writing. Takes the same time whatever the size.
Result<DiskFile> create_disk_file(const std::string& path, uint64_t bytes);

// The two halves of it, for whoever learns the size later, in a jail: an empty file at `path`,
// which must not exist, opened and locked; and its size (errors as above, the file stays).
Result<DiskFile> make_disk_file(const std::string& path);
Status size_disk_file(DiskFile& file, uint64_t bytes);

// Turns a lock for writing into one for reading: the file is not to be written again.
Status share_disk_file(int fd, const std::string& path);

}  // namespace spore
