#pragma once

// A request as the driver described it: descriptors resolved to host memory, checked once.

#include <sys/uio.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

// Copies up to `bytes.size()` bytes from `buffers`, starting `offset` bytes in; says how many.
size_t copy_from(std::span<const iovec> buffers, size_t offset, std::span<std::byte> bytes);
// Copies up to `bytes.size()` bytes into `buffers`, starting `offset` bytes in; says how many.
size_t copy_to(std::span<const iovec> buffers, size_t offset, std::span<const std::byte> bytes);
// Appends to `out` the part [offset, offset + size) of `buffers`; says how many bytes that gave.
size_t slice(std::span<const iovec> buffers, size_t offset, size_t size, std::vector<iovec>& out);

// One chain popped from a queue. Move-only; it must be given back by Queue::push() or
// Queue::unpop(), or dropped by forget() when its queue is being reset (asserted).
class DescriptorChain {
  public:
    DescriptorChain() = default;
    DescriptorChain(DescriptorChain&& other) noexcept;
    DescriptorChain& operator=(DescriptorChain&& other) noexcept;
    ~DescriptorChain();

    uint16_t head() const { return head_; }

    // Device-readable descriptors, and the device-writable ones after them (virtio 1.2 §2.7.4.2).
    // Host memory that the guest may change at any time: copy out before checking.
    std::span<const iovec> readable() const { return readable_; }
    std::span<const iovec> writable() const { return writable_; }
    size_t readable_bytes() const { return readable_bytes_; }
    size_t writable_bytes() const { return writable_bytes_; }

    // The T at `offset` of the readable part; invalid_argument if the chain is shorter.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    Result<T> read(size_t offset = 0) const {
        T value;
        if (copy_from(readable_, offset, std::as_writable_bytes(std::span(&value, 1))) != sizeof(T))
            return fail(Code::invalid_argument, "descriptor chain too short for its header");
        return value;
    }
    // Writes a T at `offset` of the writable part; invalid_argument if the chain is shorter.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    Status write(const T& value, size_t offset = 0) const {
        if (copy_to(writable_, offset, std::as_bytes(std::span(&value, 1))) != sizeof(T))
            return fail(Code::invalid_argument, "descriptor chain has no room for its header");
        return {};
    }

    void forget() { held_ = false; }

  private:
    friend class Queue;
    uint16_t head_ = 0;
    bool held_ = false;
    std::vector<iovec> readable_;
    std::vector<iovec> writable_;
    size_t readable_bytes_ = 0;
    size_t writable_bytes_ = 0;
};

}  // namespace spore
