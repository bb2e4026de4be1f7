#include "devices/block/file_transfer.h"

#include <linux/falloc.h>

#include <algorithm>
#include <array>
#include <cassert>

namespace spore {

namespace {

// Source of zeros where a file system makes none itself: tmpfs without ZERO_RANGE, and the like.
constexpr size_t kZerosBytes = 64 * limits::kKiB;
constexpr size_t kZerosBuffers = 64;  // 4 MiB for one write
alignas(4096) const std::array<std::byte, kZerosBytes> kZeros = {};

// What fallocate(2) says where the file cannot do the mode, or not at this alignment.
bool is_unsupported(int32_t result) {
    return result == -EOPNOTSUPP || result == -EINVAL || result == -ENODEV || result == -ENOSYS;
}

}  // namespace

FileTransfer& FileTransferPool::take() {
    if (free_.empty()) {
        all_.push_back(std::unique_ptr<FileTransfer>(new FileTransfer(loop_, *this)));
        free_.reserve(all_.size());
        free_.push_back(all_.back().get());
    }
    FileTransfer& transfer = *free_.back();
    free_.pop_back();
    return transfer;
}

void FileTransfer::read(const RingFile& file, uint64_t offset, Done done) {
    start(Kind::read, file, offset, 0, std::move(done));
}

void FileTransfer::write(const RingFile& file, uint64_t offset, Done done) {
    start(Kind::write, file, offset, 0, std::move(done));
}

void FileTransfer::sync(const RingFile& file, Done done) {
    start(Kind::sync, file, 0, 0, std::move(done));
}

void FileTransfer::punch(const RingFile& file, uint64_t offset, uint64_t size, Done done) {
    start(Kind::punch, file, offset, size, std::move(done));
}

void FileTransfer::zero(const RingFile& file, uint64_t offset, uint64_t size, bool unmap,
                        Done done) {
    start(unmap ? Kind::zero_punch : Kind::zero_range, file, offset, size, std::move(done));
}

void FileTransfer::start(Kind kind, const RingFile& file, uint64_t offset, uint64_t size,
                         Done done) {
    kind_ = kind;
    file_ = &file;
    offset_ = offset;
    left_ = size;
    first_ = 0;
    done_ = std::move(done);
    if (kind == Kind::read || kind == Kind::write) {
        for (const iovec& buffer : buffers_)
            left_ += buffer.iov_len;
    }
    submit();
}

void FileTransfer::submit() {
    std::span<const iovec> buffers = std::span(buffers_).subspan(first_);
    switch (kind_) {
        case Kind::read:
            loop_.readv(op_, *file_, buffers, offset_);
            break;
        case Kind::write:
            loop_.writev(op_, *file_, buffers, offset_);
            break;
        case Kind::sync:
            loop_.fdatasync(op_, *file_);
            break;
        case Kind::punch:
        case Kind::zero_punch:
            loop_.fallocate(op_, *file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_,
                            left_);
            break;
        case Kind::zero_range:
            loop_.fallocate(op_, *file_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset_,
                            left_);
            break;
        case Kind::zero_write:
            buffers_.clear();
            for (uint64_t size = 0; size < left_ && buffers_.size() < kZerosBuffers;) {
                size_t piece = std::min<uint64_t>(kZerosBytes, left_ - size);
                buffers_.push_back({const_cast<std::byte*>(kZeros.data()), piece});
                size += piece;
            }
            loop_.writev(op_, *file_, buffers_, offset_);
            break;
    }
}

void FileTransfer::on_result(int32_t result) {
    switch (kind_) {
        case Kind::sync:
        case Kind::punch:
            finish(std::min(result, 0));
            return;
        case Kind::zero_punch:
        case Kind::zero_range:
            if (!is_unsupported(result)) {
                finish(std::min(result, 0));
                return;
            }
            kind_ = Kind::zero_write;
            submit();
            return;
        case Kind::read:
        case Kind::write:
        case Kind::zero_write:
            break;
    }
    if (result <= 0) {  // 0: a read at the end of the file, which is shorter than the disk
        finish(result < 0 ? result : -EIO);
        return;
    }
    assert(static_cast<uint64_t>(result) <= left_);
    left_ -= static_cast<uint64_t>(result);
    offset_ += static_cast<uint64_t>(result);
    if (left_ == 0) {
        finish(0);
        return;
    }
    if (kind_ != Kind::zero_write)
        advance(static_cast<size_t>(result));
    submit();
}

void FileTransfer::advance(size_t bytes) {
    while (bytes >= buffers_[first_].iov_len)
        bytes -= buffers_[first_++].iov_len;
    buffers_[first_].iov_base = static_cast<std::byte*>(buffers_[first_].iov_base) + bytes;
    buffers_[first_].iov_len -= bytes;
}

void FileTransfer::finish(int32_t result) {
    Done done = std::move(done_);
    buffers_.clear();
    pool_.free_.push_back(this);
    done(result);
}

}  // namespace spore
