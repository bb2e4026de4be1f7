// UNTRUSTED: a guest's page tables.

#include "hypervisor/memory/page_tables.h"

#include <map>

#include "hypervisor/base/limits.h"

namespace spore {

namespace {

constexpr unsigned kLevels = 4, kEntryBits = 9, kPageBits = 12;
constexpr uint64_t kEntries = 1 << kEntryBits, kPage = 1 << kPageBits;
constexpr uint64_t kPresent = 1 << 0, kUser = 1 << 2, kLarge = 1 << 7;
constexpr uint64_t kNoExecute = uint64_t{1} << 63;
constexpr uint64_t kAddress = 0x000f'ffff'ffff'f000;

// Of an entry of a table of `level` (1: its entries are pages).
constexpr unsigned shift_of(unsigned level) {
    return kPageBits + kEntryBits * (level - 1);
}
constexpr uint64_t canonical(uint64_t linear) {
    return static_cast<uint64_t>(static_cast<int64_t>(linear << 16) >> 16);
}

bool is_page(uint64_t entry, unsigned level) {
    return level == 1 || (level <= 3 && (entry & kLarge) != 0);
}
uint64_t page_start(uint64_t entry, unsigned level) {
    return entry & kAddress & ~((uint64_t{1} << shift_of(level)) - 1);
}

// What is still wanted, by its start; each piece that a page has is taken out of it.
class Search {
  public:
    Search(const GuestMemory& memory, std::span<const MemoryExtent> wanted) : memory_(memory) {
        for (const MemoryExtent& extent : wanted)
            wanted_[extent.start.value()] = extent.start.value() + extent.size;
    }

    // What the entries above allow: programs in, only where all do; code, only where all do.
    struct Allowed {
        bool user = true;
        bool code = true;
    };

    void walk(uint64_t table, unsigned level, uint64_t linear, Allowed above) {
        if (is_done() || tables_++ >= limits::kGuestTablesMax)
            return;
        auto bytes = memory_.range(GuestAddress(table), kEntries * sizeof(uint64_t));
        if (!bytes)
            return;
        uint64_t first = level == kLevels ? kEntries / 2 : 0;  // the kernel's half
        for (uint64_t index = first; index < kEntries && !is_done(); index++) {
            uint64_t entry = 0;
            std::memcpy(&entry, bytes->data() + index * sizeof(entry), sizeof(entry));
            if ((entry & kPresent) == 0)
                continue;
            Allowed here = {above.user && (entry & kUser) != 0,
                            above.code && (entry & kNoExecute) == 0};
            uint64_t at = linear | index << shift_of(level);
            if (!is_page(entry, level))
                walk(entry & kAddress, level - 1, at, here);
            else if (!here.user)
                take(page_start(entry, level), level, canonical(at), here.code);
        }
    }
    PageTables::Found found() { return std::move(found_); }

  private:
    bool is_done() const { return wanted_.empty() && found_.code; }

    void take(uint64_t start, unsigned level, uint64_t linear, bool code) {
        uint64_t end = start + (uint64_t{1} << shift_of(level));
        if (code && !found_.code && memory_.range(GuestAddress(start), kPage))
            found_.code = MappedRange{linear, GuestAddress(start), kPage};
        auto piece = wanted_.upper_bound(start);
        if (piece != wanted_.begin() && std::prev(piece)->second > start)
            --piece;
        while (piece != wanted_.end() && piece->first < end) {
            auto [piece_start, piece_end] = *piece;
            piece = wanted_.erase(piece);
            uint64_t from = std::max(start, piece_start), to = std::min(end, piece_end);
            found_.ranges.push_back({linear + (from - start), GuestAddress(from), to - from});
            if (piece_start < from)
                wanted_[piece_start] = from;
            if (to < piece_end)
                wanted_[to] = piece_end;
        }
    }

    const GuestMemory& memory_;
    std::map<uint64_t, uint64_t> wanted_;
    PageTables::Found found_;
    uint32_t tables_ = 0;
};

}  // namespace

PageTables::Found PageTables::find(std::span<const MemoryExtent> wanted) const {
    Search search(memory_, wanted);
    search.walk(cr3_ & kAddress, kLevels, 0, {});
    return search.found();
}

}  // namespace spore
