#pragma once

// The split virtqueue (virtio 1.2 §2.7), device side. UNTRUSTED: every index, address and length in
// the rings is the guest's; they are read once each and checked here. Fuzz target: fuzz-queue.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "devices/virtio/descriptor_chain.h"
#include "devices/virtio/ring_layout.h"
#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

// All there is to save of a queue; set up by the driver through the transport.
struct QueueState {
    uint16_t size = 0;  // a power of 2, at most the queue's maximum
    bool ready = false;
    uint64_t descriptor_table = 0;  // guest addresses of the three parts
    uint64_t available_ring = 0;
    uint64_t used_ring = 0;
    uint16_t next_available = 0;  // the avail ring entry that pop() takes next, free-running
    uint16_t next_used = 0;       // the used ring entry that push() fills next, free-running
    uint16_t signalled_used = 0;  // next_used when the driver was last interrupted

    bool operator==(const QueueState&) const = default;
};

// Loop thread only. Until enable() succeeds, and after disable(), there is nothing to pop.
class Queue {
  public:
    explicit Queue(const GuestMemory& memory, uint16_t size_max = limits::kQueueSizeMax)
        : memory_(&memory), size_max_(size_max) {
        state_.size = size_max;
    }

    uint16_t size_max() const { return size_max_; }
    const QueueState& state() const { return state_; }

    // Checks `state` (size, alignment: virtio 1.2 §2.7, all three parts within guest memory) and
    // takes it on; with `state.ready` the queue works from there. The same checks whether it comes
    // from a driver or from a snapshot. Errors: invalid_argument, the queue unchanged.
    Status configure(const QueueState& state, bool event_index);
    // Forgets everything, as a device reset does.
    void reset();
    bool ready() const { return state_.ready; }

    // The next chain the driver made available; nothing if there is none. An error (corrupt) means
    // that the driver broke the queue: nothing more can be popped until it is reset.
    Result<std::optional<DescriptorChain>> pop();
    // Gives `chain` back as used, `written` bytes of its writable part filled. Ordered and visible
    // to the driver at once (virtio 1.2 §2.7.8); follow a batch with should_interrupt().
    void push(DescriptorChain chain, uint32_t written);
    // The two halves of push(): the driver sees what was staged when publish() is called, all at
    // once (a packet over several buffers must appear so, virtio 1.2 §5.1.6.4).
    void stage(DescriptorChain chain, uint32_t written);
    void publish();
    // Puts back the chain that was popped last, as if it had not been.
    void unpop(DescriptorChain chain);
    // How many chains wait to be popped.
    uint16_t waiting() const;
    // Whether the driver wants to hear of what was pushed since the last time (§2.7.7, §2.7.10).
    bool should_interrupt();

    // Asks the driver to kick, or not to bother, while we are looking anyway. enable_kicks() asks
    // to be told when more than `known` chains wait (those that were seen and left), and says
    // whether more do already: look again then.
    void disable_kicks();
    [[nodiscard]] bool enable_kicks(uint16_t known = 0);

  private:
    Status resolve(const QueueState& state);
    uint16_t load_available_index() const;
    Result<DescriptorChain> read_chain(uint16_t head);
    Status append(DescriptorChain& chain, const VirtqDescriptor& descriptor, bool& seen_writable);

    const GuestMemory* memory_;
    uint16_t size_max_;
    QueueState state_;
    bool event_index_ = false;
    bool broken_ = false;
    std::span<std::byte> descriptors_;
    std::span<std::byte> available_;
    std::span<std::byte> used_;
    std::vector<std::vector<iovec>> spare_;  // iovec arrays of chains given back
};

}  // namespace spore
