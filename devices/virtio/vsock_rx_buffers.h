#pragma once

// Buffers of the vsock device's rx queue, taken ahead of use so that one recvmsg can fill several.

#include <deque>

#include "devices/virtio/queue.h"

namespace spore {

class VsockRxBuffers {
  public:
    explicit VsockRxBuffers(Queue& queue) : queue_(&queue) {}

    // The first buffer that holds at least `bytes`; smaller ones before it go back unused, counted
    // in `too_small`. Null if there is none just now. Errors: the queue's (corrupt).
    Result<DescriptorChain*> first(size_t bytes, uint64_t& too_small);
    // The buffer after `index` others; null if there is none just now, or too small a one.
    Result<DescriptorChain*> at(size_t index, size_t bytes);
    // Gives the first buffer to the guest, `written` bytes of it filled.
    void push(uint32_t written);
    // Puts back what was taken and not used. What a broken queue gave is forgotten.
    void give_back(bool broken);

  private:
    Result<bool> take();

    Queue* queue_;
    std::deque<DescriptorChain> taken_;
};

}  // namespace spore
