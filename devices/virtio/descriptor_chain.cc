#include "devices/virtio/descriptor_chain.h"

#include <algorithm>
#include <cassert>

namespace spore {

namespace {

// Calls `visit(pointer, size)` for each piece of [offset, offset + size) of `buffers`.
template <typename Visit>
size_t for_each_piece(std::span<const iovec> buffers, size_t offset, size_t size, Visit visit) {
    size_t done = 0;
    for (const iovec& buffer : buffers) {
        if (done == size)
            break;
        if (offset >= buffer.iov_len) {
            offset -= buffer.iov_len;
            continue;
        }
        size_t piece = std::min(buffer.iov_len - offset, size - done);
        visit(static_cast<std::byte*>(buffer.iov_base) + offset, piece, done);
        done += piece;
        offset = 0;
    }
    return done;
}

}  // namespace

size_t copy_from(std::span<const iovec> buffers, size_t offset, std::span<std::byte> bytes) {
    return for_each_piece(buffers, offset, bytes.size(),
                          [&](const std::byte* piece, size_t size, size_t done) {
                              std::memcpy(bytes.data() + done, piece, size);
                          });
}

size_t copy_to(std::span<const iovec> buffers, size_t offset, std::span<const std::byte> bytes) {
    return for_each_piece(buffers, offset, bytes.size(),
                          [&](std::byte* piece, size_t size, size_t done) {
                              std::memcpy(piece, bytes.data() + done, size);
                          });
}

size_t slice(std::span<const iovec> buffers, size_t offset, size_t size, std::vector<iovec>& out) {
    return for_each_piece(buffers, offset, size, [&](std::byte* piece, size_t length, size_t) {
        out.push_back({piece, length});
    });
}

DescriptorChain::DescriptorChain(DescriptorChain&& other) noexcept
    : head_(other.head_),
      held_(std::exchange(other.held_, false)),
      readable_(std::move(other.readable_)),
      writable_(std::move(other.writable_)),
      readable_bytes_(other.readable_bytes_),
      writable_bytes_(other.writable_bytes_) {}

DescriptorChain& DescriptorChain::operator=(DescriptorChain&& other) noexcept {
    assert(!held_ && "a chain was overwritten before it was given back");
    head_ = other.head_;
    held_ = std::exchange(other.held_, false);
    readable_ = std::move(other.readable_);
    writable_ = std::move(other.writable_);
    readable_bytes_ = other.readable_bytes_;
    writable_bytes_ = other.writable_bytes_;
    return *this;
}

DescriptorChain::~DescriptorChain() {
    assert(!held_ && "a chain was never given back");
}

}  // namespace spore
