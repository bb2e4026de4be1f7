#include "devices/virtio/vsock_connection.h"

#include <poll.h>

#include <cassert>

#include "devices/virtio/descriptor_chain.h"

namespace spore {

bool VsockSocket::hung_up() const {
    pollfd wait = {.fd = file.fd(), .events = 0, .revents = 0};  // POLLHUP comes without asking
    return ::poll(&wait, 1, 0) == 1;
}

void VsockBuffer::append(std::span<const iovec> pieces, size_t offset, size_t size) {
    if (head_ > 0 && head_ >= bytes_.size() / 2) {  // at most one move for each byte on average
        bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(head_));
        head_ = 0;
    }
    size_t before = bytes_.size();
    bytes_.resize(before + size);
    [[maybe_unused]] size_t copied = copy_from(pieces, offset, std::span(bytes_).subspan(before));
    assert(copied == size);
}

void VsockBuffer::consume(size_t size) {
    assert(size <= this->size());
    head_ += size;
    if (empty())
        clear();
}

void VsockBuffer::clear() {
    bytes_ = {};
    head_ = 0;
}

}  // namespace spore
