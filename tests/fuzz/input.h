#pragma once

// Takes values off the front of a fuzzer's input; zeros when it is used up.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace spore::fuzz {

class Input {
  public:
    Input(const uint8_t* data, size_t size) : left_(std::as_bytes(std::span(data, size))) {}

    bool empty() const { return left_.empty(); }
    template <typename T>
    T take() {
        T value = {};
        auto bytes = take_bytes(sizeof(T));
        std::memcpy(&value, bytes.data(), bytes.size());
        return value;
    }
    // Up to `size` bytes.
    std::span<const std::byte> take_bytes(size_t size) {
        auto bytes = left_.first(size < left_.size() ? size : left_.size());
        left_ = left_.subspan(bytes.size());
        return bytes;
    }

  private:
    std::span<const std::byte> left_;
};

}  // namespace spore::fuzz
