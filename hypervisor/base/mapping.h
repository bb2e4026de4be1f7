#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <span>
#include <utility>

#include "hypervisor/base/result.h"

namespace spore {

// Owns one mmap'ed range and unmaps it. Move-only.
class Mapping {
  public:
    Mapping() = default;
    Mapping(Mapping&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        if (this != &other) {
            unmap();
            data_ = std::exchange(other.data_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() { unmap(); }

    // mmap(2) with these arguments; `size` in bytes, more than 0. Errors: the system call's.
    static Result<Mapping> create(size_t size, int protection, int flags, int fd = -1,
                                  off_t offset = 0);

    std::byte* data() const { return data_; }
    size_t size() const { return size_; }
    std::span<std::byte> span() const { return {data_, size_}; }
    explicit operator bool() const { return data_ != nullptr; }

  private:
    Mapping(std::byte* data, size_t size) : data_(data), size_(size) {}
    void unmap();

    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace spore
