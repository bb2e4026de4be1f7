#pragma once

// The guest's memory as the VMM sees it. THE place where a guest-physical address becomes a host
// pointer: every address and length a guest gives is checked here and nowhere else.

#include <sys/uio.h>

#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "hypervisor/base/mapping.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/memory/guest_address.h"

namespace spore {

// One contiguous piece of guest memory and the host mapping behind it.
struct MemoryRegion {
    GuestAddress start;
    uint64_t file_offset = 0;  // where the region begins in a memory image
    Mapping mapping;

    uint64_t size() const { return mapping.size(); }
};

// Where x86-64 guest memory lies: below the hole, and from 4 GiB on (see boot/layout.h).
struct MemoryExtent {
    GuestAddress start;
    uint64_t size = 0;
};

enum class Access { read, write };

// All regions of one machine. Immutable once built, so reading it needs no lock; the bytes behind
// it are shared with a running guest, which may change them at any moment: copy out, then check.
class GuestMemory {
  public:
    GuestMemory() = default;
    explicit GuestMemory(std::vector<MemoryRegion> regions) : regions_(std::move(regions)) {}

    // Fresh zeroed anonymous memory at `extents` (ascending, disjoint, page-aligned).
    static Result<GuestMemory> allocate(std::span<const MemoryExtent> extents);

    // Private (copy-on-write) mapping of `image`, which holds the extents one after another.
    static Result<GuestMemory> map_private(int image, std::span<const MemoryExtent> extents);

    const std::vector<MemoryRegion>& regions() const { return regions_; }
    uint64_t size() const;

    // Has the kernel map [offset, offset + size) of the image behind a private mapping, to be read,
    // or as this process's own copies. False: this kernel cannot (before 5.14). Errors: the image
    // cannot be read, no memory; invalid_argument for what lies outside.
    Result<bool> populate(uint64_t offset, uint64_t size, Access access) const;

    // The host bytes of [address, address + size), which must lie in one region; else
    // invalid_argument. `size` 0 gives an empty span at a valid address.
    Result<std::span<std::byte>> range(GuestAddress address, uint64_t size) const;

    // Copies one value out of, or into, guest memory. T's bytes may have any value.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    Result<T> read(GuestAddress address) const {
        auto bytes = TRY(range(address, sizeof(T)));
        T value;
        std::memcpy(&value, bytes.data(), sizeof(T));
        return value;
    }
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    Status write(GuestAddress address, const T& value) const {
        return write_bytes(address, std::as_bytes(std::span(&value, 1)));
    }
    Status write_bytes(GuestAddress address, std::span<const std::byte> bytes) const;
    Status read_bytes(GuestAddress address, std::span<std::byte> bytes) const;

  private:
    std::vector<MemoryRegion> regions_;
};

}  // namespace spore
