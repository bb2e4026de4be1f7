#pragma once

// The 256 bytes of a function's configuration space, with a write mask for each bit.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "hypervisor/base/result.h"

namespace spore {

class ConfigSpace {
  public:
    static constexpr uint32_t kBytes = 256;

    // As the device sees it: no masks. `offset` + sizeof(T) is at most kBytes (asserted).
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    T get(uint32_t offset) const {
        T value;
        std::memcpy(&value, window(bytes_, offset, sizeof(T)), sizeof(T));
        return value;
    }
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    void set(uint32_t offset, T value) {
        std::memcpy(window(bytes_, offset, sizeof(T)), &value, sizeof(T));
    }
    // Lets the driver write the bits of `mask`.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    void set_writable(uint32_t offset, T mask) {
        std::memcpy(window(masks_, offset, sizeof(T)), &mask, sizeof(T));
    }

    // Appends a capability to the list: `body` is what follows its identifier and next pointer.
    // Returns its offset. There must be room (asserted).
    uint32_t add_capability(uint8_t id, std::span<const std::byte> body);

    // As the driver sees it, any width and alignment: zeros beyond the end, writes masked.
    void read(uint32_t offset, std::span<std::byte> bytes) const;
    void write(uint32_t offset, std::span<const std::byte> bytes);

    std::span<const std::byte, kBytes> bytes() const { return bytes_; }
    // Takes on `bytes` from a snapshot. Errors: corrupt, naming the first byte that differs where
    // no driver could have written; nothing is changed then.
    Status restore(std::span<const uint8_t> bytes);

  private:
    using Bytes = std::array<std::byte, kBytes>;
    static const std::byte* window(const Bytes& bytes, uint32_t offset, size_t size);
    static std::byte* window(Bytes& bytes, uint32_t offset, size_t size);

    Bytes bytes_ = {};
    Bytes masks_ = {};
    uint32_t last_capability_ = 0;     // 0: none yet
    uint32_t next_capability_ = 0x40;  // behind the header (PCI 3.0 §6.1)
};

}  // namespace spore
