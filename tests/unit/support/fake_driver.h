#pragma once

// A driver for one virtqueue, as a guest would be, so that device tests read like a guest's code.

#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "devices/virtio/device.h"
#include "devices/virtio/queue.h"

namespace spore::test {

// Guest memory of `size` bytes from address 0.
inline GuestMemory make_memory(uint64_t size = 4 * limits::kMiB) {
    MemoryExtent extent{GuestAddress(0), size};
    return *GuestMemory::allocate(std::span(&extent, 1));
}

template <typename T>
    requires(!std::is_convertible_v<T, std::string_view>)
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}
inline std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

// A piece of a chain: bytes for the device to read, or room for it to write.
struct Buffer {
    GuestAddress address;
    uint32_t size = 0;
    bool writable = false;
};

struct UsedElement {
    uint32_t head = 0;
    uint32_t written = 0;
};

class FakeDriver {
  public:
    // Lays the rings out at `base` (16-aligned) and takes buffers from the memory behind them, up
    // to `base + bytes`.
    FakeDriver(const GuestMemory& memory, GuestAddress base, uint16_t size,
               uint64_t bytes = 512 * limits::kKiB)
        : memory_(memory), base_(base.value()), size_(size), end_(base.value() + bytes) {
        free_ = base_ + 64 * limits::kKiB;
        for (uint16_t index = 0; index < size; index++)
            free_descriptors_.push_back(index);
    }

    QueueState queue_state() const {
        QueueState state;
        state.size = size_;
        state.ready = true;
        state.descriptor_table = base_;
        state.available_ring = available();
        state.used_ring = used();
        return state;
    }

    // A buffer holding `bytes`, or room for `size` bytes (filled with 0xee to show what is
    // written).
    Buffer readable(std::span<const std::byte> bytes) {
        Buffer buffer{allocate(static_cast<uint32_t>(bytes.size())),
                      static_cast<uint32_t>(bytes.size()), false};
        (void)memory_.write_bytes(buffer.address, bytes);
        return buffer;
    }
    Buffer writable(uint32_t size) {
        Buffer buffer{allocate(size), size, true};
        std::vector<std::byte> filler(size, std::byte{0xee});
        (void)memory_.write_bytes(buffer.address, filler);
        return buffer;
    }

    // Makes a chain of `buffers` available; returns its head.
    uint16_t add(std::span<const Buffer> buffers) {
        uint16_t head = 0xffff;
        uint16_t previous = 0;
        for (const Buffer& buffer : buffers) {
            uint16_t index = free_descriptors_.back();
            free_descriptors_.pop_back();
            write_descriptor(index,
                             {buffer.address.value(), buffer.size,
                              static_cast<uint16_t>(buffer.writable ? kDescriptorWrite : 0), 0});
            if (head == 0xffff)
                head = index;
            else
                link(previous, index);
            previous = index;
        }
        publish(head);
        return head;
    }
    uint16_t add(std::initializer_list<Buffer> buffers) {
        return add(std::span(buffers.begin(), buffers.size()));
    }

    // Raw access, to do what no honest driver does.
    void write_descriptor(uint16_t index, const VirtqDescriptor& descriptor) {
        (void)memory_.write(GuestAddress(base_ + 16u * index), descriptor);
    }
    void publish(uint16_t head) {
        (void)memory_.write(GuestAddress(available() + 4 + 2u * (next_available_ % size_)), head);
        next_available_++;
        set_available_index(next_available_);
    }
    void set_available_index(uint16_t index) {
        next_available_ = index;
        (void)memory_.write(GuestAddress(available() + 2), index);
    }
    void set_available_flags(uint16_t flags) {
        (void)memory_.write(GuestAddress(available()), flags);
    }
    void set_used_event(uint16_t index) {
        (void)memory_.write(GuestAddress(available() + 4 + 2u * size_), index);
    }
    uint16_t used_index() const { return *memory_.read<uint16_t>(GuestAddress(used() + 2)); }
    uint16_t used_flags() const { return *memory_.read<uint16_t>(GuestAddress(used())); }

    // The next chain the device gave back, whose descriptors may then be used again.
    std::optional<UsedElement> take_used() {
        if (used_index() == next_used_)
            return std::nullopt;
        auto element =
            *memory_.read<UsedElement>(GuestAddress(used() + 4 + 8u * (next_used_ % size_)));
        next_used_++;
        for (uint16_t index = static_cast<uint16_t>(element.head);;) {
            auto descriptor = *memory_.read<VirtqDescriptor>(GuestAddress(base_ + 16u * index));
            free_descriptors_.push_back(index);
            if ((descriptor.flags & kDescriptorNext) == 0)
                return element;
            index = descriptor.next;
        }
    }

    std::vector<std::byte> contents(const Buffer& buffer) const {
        std::vector<std::byte> bytes(buffer.size);
        (void)memory_.read_bytes(buffer.address, bytes);
        return bytes;
    }
    std::string text(const Buffer& buffer) const {
        auto bytes = contents(buffer);
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
    GuestAddress allocate(uint32_t size) {
        if (free_ + size > end_)
            free_ = base_ + 64 * limits::kKiB;  // round again: old buffers are long used
        GuestAddress address(free_);
        free_ += (size + 15u) & ~15u;
        return address;
    }

  private:
    uint64_t available() const { return base_ + 16u * size_; }
    uint64_t used() const { return base_ + 32 * limits::kKiB; }
    void link(uint16_t from, uint16_t to) {
        auto descriptor = *memory_.read<VirtqDescriptor>(GuestAddress(base_ + 16u * from));
        descriptor.flags |= kDescriptorNext;
        descriptor.next = to;
        write_descriptor(from, descriptor);
    }

    const GuestMemory& memory_;
    uint64_t base_;
    uint16_t size_;
    uint64_t end_;
    uint64_t free_ = 0;
    std::vector<uint16_t> free_descriptors_;
    uint16_t next_available_ = 0;
    uint16_t next_used_ = 0;
};

// An interrupt line that counts.
class CountingLine : public InterruptLine {
  public:
    void queue_used(uint16_t queue) override { used[queue]++; }
    void config_changed() override { config++; }
    void device_failed() override { failures++; }

    unsigned used[8] = {};
    unsigned config = 0;
    unsigned failures = 0;
};

}  // namespace spore::test
