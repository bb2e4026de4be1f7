#pragma once

// The working set: which pages of a snapshot's memory a clone touches first. A trial clone shows it
// when the template is made; every later clone is given these pages before its first instruction,
// in a few system calls instead of a fault each. schema/working_set.fbs has the file's content.
// UNTRUSTED when read: working_set.cc checks every run against the snapshot that it is about; what
// it says wrongly within its bounds costs time and memory, never right or wrong. Fuzz target:
// fuzz-working-set.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

// Beside the snapshot's other files; snapshots without one are restored without.
inline constexpr const char* kWorkingSetFile = "working-set.spore";
inline constexpr uint32_t kWorkingSetVersion = 1;

// Pages of 4 KiB, counted from the beginning of the memory image.
struct PageRun {
    uint64_t first_page = 0;
    uint32_t pages = 0;
    bool written = false;
    bool operator==(const PageRun&) const = default;
};

struct WorkingSet {
    uint64_t image_bytes = 0;      // of the snapshot that it is about, as is
    uint64_t created_unix_ns = 0;  // this
    std::vector<PageRun> runs;     // ascending, disjoint
    bool operator==(const WorkingSet&) const = default;

    uint64_t pages(bool written) const;
};

// What this process has touched of `memory`, a private mapping of an image: pages that have become
// its own were written, others that are mapped were read. `pagemap`: /proc/self/pagemap, opened by
// this process (proc(5)); no privilege is needed. Within the bounds of read_working_set().
Result<std::vector<PageRun>> touched_pages(int pagemap, const GuestMemory& memory);
// What makes that exact: else a fault maps up to 16 pages of the image around the one that it is
// for, those that the host has in its page cache. The first half is for the open image before it is
// mapped: the host forgets what it has of it (not on tmpfs). The second keeps it from reading
// ahead.
void forget_cached_image(int image);
Status read_page_by_page(const GuestMemory& memory);

// To the empty file `file`, synced. Errors: the host's.
Status write_working_set(int file, const WorkingSet& set);

// Errors: corrupt (`name` and what), version_mismatch, the host's.
Result<WorkingSet> read_working_set(int file, const std::string& name);
// The same of a file by its name.
Result<WorkingSet> read_working_set(const std::string& path);
// Corrupt if `set` is not about the snapshot with these two properties.
Status check_snapshot_of(const WorkingSet& set, uint64_t image_bytes, uint64_t created_unix_ns);
// The payload alone.
Result<WorkingSet> decode_working_set(std::span<const std::byte> payload);
std::vector<std::byte> encode_working_set(const WorkingSet& set);

// Where the guest has the pages of `set`, ascending: what of it lies in `memory`.
std::vector<MemoryExtent> guest_ranges(const GuestMemory& memory, const WorkingSet& set);

// Has the kernel map in `memory` the pages of `set` that are written, as this process's own copies,
// or those that are only read. Nothing on kernels before 5.14; how many pages have come of it is
// returned. Errors: the image cannot be read, no memory.
Result<uint64_t> populate(const GuestMemory& memory, const WorkingSet& set, Access access);

}  // namespace spore
