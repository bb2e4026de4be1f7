#include "devices/virtio/vsock_rx_buffers.h"

namespace spore {

Result<bool> VsockRxBuffers::take() {
    auto chain = TRY(queue_->pop());
    if (!chain)
        return false;
    taken_.push_back(std::move(*chain));
    return true;
}

Result<DescriptorChain*> VsockRxBuffers::first(size_t bytes, uint64_t& too_small) {
    // At most a queue's worth of useless buffers at once: the guest may add them as fast as we
    // look.
    for (unsigned count = 0; count < limits::kQueueSizeMax; count++) {
        if (taken_.empty() && !TRY(take()))
            return nullptr;
        if (taken_.front().writable_bytes() >= bytes)
            return &taken_.front();
        too_small++;
        push(0);
    }
    return nullptr;
}

Result<DescriptorChain*> VsockRxBuffers::at(size_t index, size_t bytes) {
    while (taken_.size() <= index) {
        if (!TRY(take()))
            return nullptr;
    }
    // Only the first can be given up: those behind it are put back in order.
    return taken_[index].writable_bytes() >= bytes ? &taken_[index] : nullptr;
}

void VsockRxBuffers::push(uint32_t written) {
    queue_->push(std::move(taken_.front()), written);
    taken_.pop_front();
}

void VsockRxBuffers::give_back(bool broken) {
    while (!taken_.empty()) {
        if (broken)
            taken_.back().forget();
        else
            queue_->unpop(std::move(taken_.back()));
        taken_.pop_back();
    }
}

}  // namespace spore
