// UNTRUSTED: a working set's runs, whatever their checksum says of them.

#include "hypervisor/snapshot/working_set.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/snapshot/checked_file.h"
#include "schema/working_set_generated.h"

namespace spore {

namespace fb = working_set::fb;

namespace {

constexpr uint64_t kPage = 4096;
constexpr const char* kIdentifier = "SPWS";
constexpr FileKind kKind = {"SPOREWKS", "working set", kWorkingSetVersion, 1,
                            limits::kWorkingSetBytesMax};

// An entry of pagemap (Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kSwapped = uint64_t{1} << 62;
constexpr uint64_t kOfFile = uint64_t{1} << 61;

std::unexpected<Error> corrupt(const std::string& what) {
    return fail(Code::corrupt, "working set: " + what);
}

// Appends pages that were touched, to the last run if they go on with it.
void add_pages(std::vector<PageRun>& runs, uint64_t page, uint32_t pages, bool written) {
    if (!runs.empty()) {
        PageRun& last = runs.back();
        if (last.first_page + last.pages == page && last.written == written &&
            last.pages <= UINT32_MAX - pages) {
            last.pages += pages;
            return;
        }
    }
    runs.push_back({page, pages, written});
}

Status add_region(int pagemap, const MemoryRegion& region, std::vector<PageRun>& runs) {
    constexpr size_t kEntries = 8192;
    std::vector<uint64_t> entries(kEntries);
    uint64_t first = reinterpret_cast<uintptr_t>(region.mapping.data()) / kPage;
    uint64_t pages = region.size() / kPage;
    for (uint64_t done = 0; done < pages;) {
        size_t wanted = std::min<uint64_t>(kEntries, pages - done) * sizeof(uint64_t);
        ssize_t got = ::pread(pagemap, entries.data(), wanted,
                              static_cast<off_t>((first + done) * sizeof(uint64_t)));
        if (got < 0)
            return fail_errno("/proc/self/pagemap");
        size_t count = static_cast<size_t>(got) / sizeof(uint64_t);
        if (count == 0)
            return fail(Code::internal, "/proc/self/pagemap: ends within guest memory");
        for (size_t index = 0; index < count; index++) {
            uint64_t entry = entries[index];
            if ((entry & (kPresent | kSwapped)) == 0)
                continue;
            add_pages(runs, region.file_offset / kPage + done + index, 1, (entry & kOfFile) == 0);
        }
        done += count;
    }
    return {};
}

// What is beyond the bounds is left to be faulted in: the last pages that were written count as
// read, the last runs as not touched.
void keep_within_limits(std::vector<PageRun>& runs) {
    uint64_t written = 0;
    for (PageRun& run : runs) {
        if (!run.written)
            continue;
        written += run.pages;
        run.written = written <= limits::kWorkingSetWrittenPagesMax;
    }
    if (runs.size() > limits::kWorkingSetRunsMax)
        runs.resize(limits::kWorkingSetRunsMax);
}

Status check(const WorkingSet& set) {
    uint64_t pages = set.image_bytes / kPage, end = 0;
    for (const PageRun& run : set.runs) {
        if (run.pages == 0 || run.first_page < end || run.first_page >= pages ||
            run.pages > pages - run.first_page)
            return corrupt("a run of " + std::to_string(run.pages) + " pages from " +
                           std::to_string(run.first_page) + ", of an image of " +
                           std::to_string(pages) + ", " + std::to_string(end) +
                           " of which stand in earlier runs or before them");
        end = run.first_page + run.pages;
    }
    if (set.pages(true) > limits::kWorkingSetWrittenPagesMax)
        return corrupt(std::to_string(set.pages(true)) + " pages written, at most " +
                       std::to_string(limits::kWorkingSetWrittenPagesMax));
    return {};
}

}  // namespace

uint64_t WorkingSet::pages(bool written) const {
    uint64_t total = 0;
    for (const PageRun& run : runs)
        total += run.written == written ? run.pages : 0;
    return total;
}

Result<std::vector<PageRun>> touched_pages(int pagemap, const GuestMemory& memory) {
    if (::sysconf(_SC_PAGESIZE) != static_cast<long>(kPage))
        return fail(Code::host_unsupported, "working set: this host's pages are not of 4 KiB");
    std::vector<PageRun> runs;
    for (const MemoryRegion& region : memory.regions())
        TRY(add_region(pagemap, region, runs));
    keep_within_limits(runs);
    return runs;
}

void forget_cached_image(int image) {
    (void)::posix_fadvise(image, 0, 0, POSIX_FADV_DONTNEED);
}

Status read_page_by_page(const GuestMemory& memory) {
    for (const MemoryRegion& region : memory.regions()) {
        if (::madvise(region.mapping.data(), region.size(), MADV_RANDOM) != 0)
            return fail_errno("guest memory: MADV_RANDOM");
    }
    return {};
}

std::vector<std::byte> encode_working_set(const WorkingSet& set) {
    flatbuffers::FlatBufferBuilder builder;
    std::vector<fb::Run> runs;
    for (const PageRun& run : set.runs)
        runs.emplace_back(run.first_page, run.pages, run.written);
    builder.Finish(fb::CreateWorkingSet(builder, set.image_bytes, set.created_unix_ns,
                                        builder.CreateVectorOfStructs(runs)),
                   kIdentifier);
    auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
    return {bytes.begin(), bytes.end()};
}

Result<WorkingSet> decode_working_set(std::span<const std::byte> payload) {
    flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(payload.data()),
                                   payload.size());
    if (!verifier.VerifyBuffer<fb::WorkingSet>(kIdentifier))
        return corrupt("is not the table that it should be");
    auto* table = flatbuffers::GetRoot<fb::WorkingSet>(payload.data());
    if (table->runs()->size() > limits::kWorkingSetRunsMax)
        return corrupt(std::to_string(table->runs()->size()) + " runs, at most " +
                       std::to_string(limits::kWorkingSetRunsMax));
    // The verifier asks a vector for the alignment of its length only.
    if (reinterpret_cast<uintptr_t>(table->runs()->Data()) % alignof(fb::Run) != 0)
        return corrupt("its runs are not aligned");
    WorkingSet set;
    set.image_bytes = table->image_bytes();
    set.created_unix_ns = table->created_unix_ns();
    set.runs.reserve(table->runs()->size());
    for (const fb::Run* run : *table->runs())
        set.runs.push_back({run->first_page(), run->pages(), run->written()});
    TRY(check(set));
    return set;
}

Status write_working_set(int file, const WorkingSet& set) {
    return write_checked_file(kKind, file, encode_working_set(set));
}

Result<WorkingSet> read_working_set(int file, const std::string& name) {
    auto payload = TRY(read_checked_file(kKind, file, name));
    auto set = decode_working_set(payload);
    if (!set)
        return std::unexpected(std::move(set).error().within(name));
    return set;
}

Result<WorkingSet> read_working_set(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file)
        return fail_errno(path);
    return read_working_set(file.get(), path);
}

Status check_snapshot_of(const WorkingSet& set, uint64_t image_bytes, uint64_t created_unix_ns) {
    if (set.image_bytes != image_bytes || set.created_unix_ns != created_unix_ns)
        return corrupt("is about another snapshot, of " + std::to_string(set.image_bytes) +
                       " bytes; this one has " + std::to_string(image_bytes));
    return {};
}

std::vector<MemoryExtent> guest_ranges(const GuestMemory& memory, const WorkingSet& set) {
    std::vector<MemoryExtent> ranges;
    for (const PageRun& run : set.runs) {
        uint64_t begin = run.first_page * kPage, end = begin + run.pages * kPage;
        for (const MemoryRegion& region : memory.regions()) {
            uint64_t from = std::max(begin, region.file_offset);
            uint64_t to = std::min(end, region.file_offset + region.size());
            if (from < to)
                ranges.push_back(
                    {GuestAddress(region.start.value() + from - region.file_offset), to - from});
        }
    }
    return ranges;
}

Result<uint64_t> populate(const GuestMemory& memory, const WorkingSet& set, Access access) {
    uint64_t done = 0;
    for (const PageRun& run : set.runs) {
        if (run.written != (access == Access::write))
            continue;
        if (!TRY(memory.populate(run.first_page * kPage, run.pages * kPage, access)))
            return done;
        done += run.pages;
    }
    return done;
}

}  // namespace spore
