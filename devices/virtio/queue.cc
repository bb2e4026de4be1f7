#include "devices/virtio/queue.h"

#include <cassert>
#include <cstdio>

namespace spore {

namespace {

template <typename T>
T load(std::span<const std::byte> bytes, size_t offset, int order = __ATOMIC_RELAXED) {
    T value;
    __atomic_load(reinterpret_cast<const T*>(bytes.data() + offset), &value, order);
    return value;
}

template <typename T>
void store(std::span<std::byte> bytes, size_t offset, T value, int order = __ATOMIC_RELAXED) {
    __atomic_store(reinterpret_cast<T*>(bytes.data() + offset), &value, order);
}

std::unexpected<Error> corrupt_queue(const char* what, unsigned value, unsigned bound) {
    char text[96];
    std::snprintf(text, sizeof(text), "virtqueue: %s %u, at most %u", what, value, bound);
    return fail(Code::corrupt, text);
}

}  // namespace

Status Queue::configure(const QueueState& state, bool event_index) {
    if (state.size == 0 || state.size > size_max_ || (state.size & (state.size - 1)) != 0)
        return corrupt_queue("size (a power of 2 is due)", state.size, size_max_);
    if (auto held = static_cast<uint16_t>(state.next_available - state.next_used);
        held > state.size)
        return corrupt_queue("avail index ahead of the used index by", held, state.size);
    if (state.ready)
        TRY(resolve(state));
    state_ = state;
    event_index_ = event_index;
    broken_ = false;
    return {};
}

Status Queue::resolve(const QueueState& state) {
    // virtio 1.2 §2.7: alignments 16, 2 and 4; each ring ends with the event index (§2.7.6,
    // §2.7.8).
    if (state.descriptor_table % 16 != 0 || state.available_ring % 2 != 0 ||
        state.used_ring % 4 != 0)
        return fail(Code::corrupt, "virtqueue: a ring is not aligned");
    uint64_t size = state.size;
    descriptors_ = TRY(memory_->range(GuestAddress(state.descriptor_table), 16 * size));
    available_ =
        TRY(memory_->range(GuestAddress(state.available_ring), kRingEntries + 2 * size + 2));
    used_ = TRY(memory_->range(GuestAddress(state.used_ring), kRingEntries + 8 * size + 2));
    return {};
}

void Queue::reset() {
    state_ = {};
    state_.size = size_max_;
    event_index_ = false;
    broken_ = false;
    descriptors_ = available_ = used_ = {};
}

uint16_t Queue::load_available_index() const {
    // Acquire: the ring entries up to this index must be seen as the driver wrote them before it.
    return load<uint16_t>(available_, kRingIndex, __ATOMIC_ACQUIRE);
}

Result<std::optional<DescriptorChain>> Queue::pop() {
    if (!state_.ready || broken_)
        return std::nullopt;
    uint16_t waiting = static_cast<uint16_t>(load_available_index() - state_.next_available);
    if (waiting == 0)
        return std::nullopt;
    // A driver has no more descriptors than the queue has, so what waits and what we hold is never
    // more either: with this no driver makes a device hold requests without end.
    unsigned held = static_cast<uint16_t>(state_.next_available - state_.next_used);
    if (waiting + held > state_.size) {
        broken_ = true;
        return corrupt_queue("avail index ahead by", waiting + held, state_.size);
    }
    size_t slot = state_.next_available & (state_.size - 1);
    auto head = load<uint16_t>(available_, kRingEntries + 2 * slot);
    auto chain = read_chain(head);
    if (!chain) {
        broken_ = true;
        return std::unexpected(std::move(chain).error());
    }
    state_.next_available++;
    return std::optional(std::move(*chain));
}

Result<DescriptorChain> Queue::read_chain(uint16_t head) {
    DescriptorChain chain;
    chain.head_ = head;
    for (auto* array : {&chain.readable_, &chain.writable_}) {
        if (!spare_.empty()) {
            *array = std::move(spare_.back());
            spare_.pop_back();
        }
    }
    std::span<const std::byte> table = descriptors_;
    size_t table_size = state_.size;
    size_t index = head;
    bool seen_writable = false;
    bool indirect = false;
    for (unsigned count = 0;;) {
        // A chain that loops is longer than the queue: the count ends it (§2.7.5.3.1). The
        // descriptor of an indirect table is none of the chain's: Linux fills the table up.
        if (count >= limits::kChainDescriptorsMax)
            return corrupt_queue("descriptors of one chain", count + 1,
                                 limits::kChainDescriptorsMax);
        if (index >= table_size)
            return corrupt_queue("descriptor index", static_cast<unsigned>(index),
                                 static_cast<unsigned>(table_size - 1));
        VirtqDescriptor descriptor;
        std::memcpy(&descriptor, table.data() + 16 * index, sizeof(descriptor));
        if (descriptor.flags & kDescriptorIndirect) {
            // §2.7.5.3.1: no table within a table, none after it, and whole descriptors in it.
            if (indirect || (descriptor.flags & kDescriptorNext))
                return fail(Code::corrupt, "virtqueue: indirect descriptor chained or nested");
            if (descriptor.length == 0 || descriptor.length % 16 != 0)
                return corrupt_queue("indirect table bytes (not a multiple of 16)",
                                     descriptor.length, 16u * limits::kChainDescriptorsMax);
            table = TRY(memory_->range(GuestAddress(descriptor.address), descriptor.length));
            table_size = descriptor.length / 16;
            index = 0;
            indirect = true;
            continue;
        }
        TRY(append(chain, descriptor, seen_writable));
        count++;
        if (!(descriptor.flags & kDescriptorNext))
            break;
        index = descriptor.next;
    }
    chain.held_ = true;
    return chain;
}

Status Queue::append(DescriptorChain& chain, const VirtqDescriptor& descriptor,
                     bool& seen_writable) {
    bool writable = (descriptor.flags & kDescriptorWrite) != 0;
    if (!writable && seen_writable)  // §2.7.4.2: readable ones come first
        return fail(Code::corrupt, "virtqueue: readable descriptor after a writable one");
    seen_writable = writable;
    auto bytes = memory_->range(GuestAddress(descriptor.address), descriptor.length);
    if (!bytes)
        return std::unexpected(Error{Code::corrupt, std::move(bytes).error().message});
    if (chain.readable_bytes_ + chain.writable_bytes_ + bytes->size() > limits::kChainBytesMax)
        return corrupt_queue("bytes of one chain, last descriptor's", descriptor.length,
                             limits::kChainBytesMax);
    if (bytes->empty())
        return {};
    auto& buffers = writable ? chain.writable_ : chain.readable_;
    buffers.push_back({bytes->data(), bytes->size()});
    (writable ? chain.writable_bytes_ : chain.readable_bytes_) += bytes->size();
    return {};
}

void Queue::push(DescriptorChain chain, uint32_t written) {
    stage(std::move(chain), written);
    publish();
}

void Queue::stage(DescriptorChain chain, uint32_t written) {
    assert(chain.held_);
    assert(written <= chain.writable_bytes_);
    chain.held_ = false;
    for (auto* array : {&chain.readable_, &chain.writable_}) {
        if (array->capacity() > 0 && spare_.size() < 16) {
            array->clear();
            spare_.push_back(std::move(*array));
        }
    }
    if (!state_.ready)
        return;
    size_t slot = state_.next_used & (state_.size - 1);
    store<uint32_t>(used_, kRingEntries + 8 * slot, chain.head_);
    store<uint32_t>(used_, kRingEntries + 8 * slot + 4, written);
    state_.next_used++;
}

void Queue::publish() {
    if (!state_.ready)
        return;
    // Release: the elements, and the data of the requests, before the index that announces them.
    store<uint16_t>(used_, kRingIndex, state_.next_used, __ATOMIC_RELEASE);
}

void Queue::unpop(DescriptorChain chain) {
    assert(chain.held_);
    chain.held_ = false;
    state_.next_available--;
}

uint16_t Queue::waiting() const {
    if (!state_.ready || broken_)
        return 0;
    return static_cast<uint16_t>(load_available_index() - state_.next_available);
}

bool Queue::should_interrupt() {
    if (!state_.ready || state_.next_used == state_.signalled_used)
        return false;
    // The used index must be visible before we look whether the driver wants to know (§2.7.10.1).
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t before = std::exchange(state_.signalled_used, state_.next_used);
    if (!event_index_)
        return (load<uint16_t>(available_, kRingFlags) & kAvailableNoInterrupt) == 0;
    auto event = load<uint16_t>(available_, kRingEntries + 2 * size_t{state_.size});
    return passes_event(event, state_.next_used, before);
}

void Queue::disable_kicks() {
    if (!state_.ready)
        return;
    // With event indices nothing needs saying: avail_event stays behind until enable_kicks().
    if (!event_index_)
        store<uint16_t>(used_, kRingFlags, kUsedNoNotify);
}

bool Queue::enable_kicks(uint16_t known) {
    if (!state_.ready || broken_)
        return false;
    auto seen = static_cast<uint16_t>(state_.next_available + known);
    if (event_index_)
        store<uint16_t>(used_, kRingEntries + 8 * size_t{state_.size}, seen);
    else
        store<uint16_t>(used_, kRingFlags, 0);
    // The wish must be visible before we look for what came meanwhile (§2.7.9.1).
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load_available_index() != seen;
}

}  // namespace spore
