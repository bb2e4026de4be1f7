#include "hypervisor/memory/page_tables.h"

#include <gtest/gtest.h>

#include "hypervisor/base/limits.h"

namespace spore {
namespace {

constexpr uint64_t kPage = 4096, kLargePage = 2 * limits::kMiB;
constexpr uint64_t kPresent = 1, kUser = 4, kLarge = 0x80, kNoExecute = uint64_t{1} << 63;
constexpr uint64_t kRoot = 0x1000, kPointers = 0x2000, kDirectory = 0x3000, kTable = 0x4000;
// Entry 256 of the root, 0 of the tables below it.
constexpr uint64_t kBase = 0xffff'8000'0000'0000;

class PageTablesTest : public testing::Test {
  protected:
    void SetUp() override {
        // As Linux has them: a program may use what every table above lets it, too.
        set(kRoot, 256, kPointers | kPresent | kUser);
        set(kPointers, 0, kDirectory | kPresent | kUser);
        set(kDirectory, 0, kTable | kPresent | kUser);
    }
    void set(uint64_t table, uint64_t index, uint64_t entry) {
        ASSERT_TRUE(memory_.write(GuestAddress(table + index * 8), entry));
    }
    std::vector<MappedRange> find(std::vector<MemoryExtent> wanted) {
        return PageTables(memory_, kRoot).find(wanted).ranges;
    }
    std::optional<MappedRange> code() {
        return PageTables(memory_, kRoot | 0x18).find({}).code;  // CR3 has flags, too
    }

    static constexpr MemoryExtent kExtents[] = {{GuestAddress(0), 8 * limits::kMiB}};
    GuestMemory memory_ = *GuestMemory::allocate(kExtents);
};

TEST_F(PageTablesTest, TellWhatTheKernelMayExecute) {
    EXPECT_FALSE(code());
    set(kTable, 5, 0x70000 | kPresent);
    EXPECT_EQ(code(), (MappedRange{kBase + 5 * kPage, GuestAddress(0x70000), kPage}));
    set(kTable, 5, 0x70000 | kPresent | kNoExecute);
    EXPECT_FALSE(code());
    set(kTable, 5, 0x70000 | kPresent | kUser);
    EXPECT_FALSE(code());
    EXPECT_TRUE(find({{GuestAddress(0x70000), kPage}}).empty()) << "a program's";
    set(kPointers, 0, kDirectory | kPresent);
    EXPECT_TRUE(code()) << "an upper table keeps programs out";
    EXPECT_EQ(find({{GuestAddress(0x70000), kPage}}).size(), 1u);
    set(kPointers, 0, kDirectory | kPresent | kNoExecute);
    EXPECT_FALSE(code()) << "an upper table forbids it";
    set(kPointers, 0, kDirectory | kPresent);
    set(kTable, 5, 0x4000'0000 | kPresent);
    EXPECT_FALSE(code()) << "not in memory";
    set(kDirectory, 1, 0x40'0000 | kPresent | kLarge);
    EXPECT_EQ(code(), (MappedRange{kBase + kLargePage, GuestAddress(0x40'0000), kPage}));
}

TEST_F(PageTablesTest, TellWherePagesAreMapped) {
    set(kTable, 5, 0x70000 | kPresent);
    set(kTable, 6, 0x72000 | kPresent);
    set(kTable, 7, 0x71000 | kPresent | kUser);
    set(kDirectory, 1, 0x40'0000 | kPresent | kLarge | kNoExecute);
    auto found = find({{GuestAddress(0x70000), 3 * kPage}, {GuestAddress(0x3f'f000), 2 * kPage}});
    EXPECT_EQ(found, (std::vector<MappedRange>{
                         {kBase + 5 * kPage, GuestAddress(0x70000), kPage},
                         {kBase + 6 * kPage, GuestAddress(0x72000), kPage},
                         {kBase + kLargePage, GuestAddress(0x40'0000), kPage},
                     }));
    EXPECT_TRUE(find({}).empty());
    EXPECT_TRUE(find({{GuestAddress(0x10000), kPage}}).empty());
}

TEST_F(PageTablesTest, TellOfAPageThatIsMappedTwiceOnce) {
    set(kTable, 5, 0x70000 | kPresent);
    set(kTable, 9, 0x70000 | kPresent);
    EXPECT_EQ(find({{GuestAddress(0x70000), kPage}}).size(), 1u);
}

TEST_F(PageTablesTest, TakeAPieceOutOfTheMiddle) {
    set(kTable, 5, 0x71000 | kPresent);
    set(kDirectory, 1, 0 | kPresent | kLarge);
    auto found = find({{GuestAddress(0x70000), 3 * kPage}});
    ASSERT_EQ(found.size(), 3u);
    EXPECT_EQ(found[0], (MappedRange{kBase + 5 * kPage, GuestAddress(0x71000), kPage}));
    EXPECT_EQ(found[1], (MappedRange{kBase + kLargePage + 0x70000, GuestAddress(0x70000), kPage}));
    EXPECT_EQ(found[2], (MappedRange{kBase + kLargePage + 0x72000, GuestAddress(0x72000), kPage}));
}

TEST_F(PageTablesTest, ThatLoopOrLeadOutOfMemoryEnd) {
    for (uint64_t index = 256; index < 512; index++)
        set(kRoot, index, kRoot | kPresent);
    (void)find({{GuestAddress(0x70'0000), kPage}});
    auto nowhere = PageTables(memory_, 0x000f'ffff'ffff'f000)
                       .find(std::vector<MemoryExtent>{{GuestAddress(0), kPage}});
    EXPECT_TRUE(nowhere.ranges.empty());
    EXPECT_FALSE(nowhere.code);
}

}  // namespace
}  // namespace spore
