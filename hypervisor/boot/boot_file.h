#pragma once

// A kernel or initrd file being read: sizes and offsets in it are the file's word, checked here.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "hypervisor/base/result.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

// "0x1f" for messages.
std::string hex(uint64_t value);

// Does not own the descriptor. Any thread.
class BootFile {
  public:
    // Errors: invalid_argument for what is not a regular file; fstat's.
    static Result<BootFile> open(int fd, std::string_view name);

    const std::string& name() const { return name_; }
    uint64_t size() const { return size_; }

    // "<name>: <what>", for a file that breaks its format.
    std::unexpected<Error> corrupt(std::string_view what) const;

    // Fills `bytes` from `offset`. Errors: corrupt, naming `what`, if the file ends before that.
    Status read(uint64_t offset, std::span<std::byte> bytes, std::string_view what) const;
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    Result<T> read(uint64_t offset, std::string_view what) const {
        T value;
        TRY(read(offset, std::as_writable_bytes(std::span(&value, 1)), what));
        return value;
    }
    // Reads [offset, offset + size) straight into guest memory at `target`; errors as read()'s and
    // invalid_argument if it is not all within one region.
    Status load(const GuestMemory& memory, GuestAddress target, uint64_t offset, uint64_t size,
                std::string_view what) const;

  private:
    BootFile(int fd, std::string_view name, uint64_t size) : fd_(fd), name_(name), size_(size) {}

    int fd_;
    std::string name_;
    uint64_t size_;
};

}  // namespace spore
