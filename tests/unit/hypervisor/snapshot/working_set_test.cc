#include "hypervisor/snapshot/working_set.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {
namespace {

constexpr uint64_t kPage = 4096, kPages = 256;

UniqueFd empty_file() {
    return UniqueFd(::memfd_create("working-set", MFD_CLOEXEC));
}

WorkingSet set_of(std::vector<PageRun> runs) {
    return {kPages * kPage, 1'700'000'000'000'000'000, std::move(runs)};
}

Result<WorkingSet> decoded(const WorkingSet& set) {
    return decode_working_set(encode_working_set(set));
}

void expect_corrupt(const WorkingSet& set) {
    auto read = decoded(set);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Code::corrupt) << read.error().message;
}

TEST(WorkingSetFile, IsReadAsItWasWritten) {
    for (const WorkingSet& set : {set_of({}), set_of({{0, 1, true}}),
                                  set_of({{0, 3, false}, {3, 1, true}, {255, 1, false}})}) {
        auto file = empty_file();
        ASSERT_TRUE(write_working_set(file.get(), set));
        auto read = read_working_set(file.get(), "f");
        ASSERT_TRUE(read) << read.error().message;
        EXPECT_EQ(*read, set);
        EXPECT_TRUE(check_snapshot_of(*read, set.image_bytes, set.created_unix_ns));
        EXPECT_FALSE(check_snapshot_of(*read, set.image_bytes + kPage, set.created_unix_ns));
        EXPECT_FALSE(check_snapshot_of(*read, set.image_bytes, set.created_unix_ns + 1));
    }
}

TEST(WorkingSetFile, IsRefusedWithAnyByteFlippedOrCutAnywhere) {
    auto file = empty_file();
    ASSERT_TRUE(write_working_set(file.get(), set_of({{1, 2, false}, {9, 1, true}})));
    off_t size = ::lseek(file.get(), 0, SEEK_END);
    ASSERT_GT(size, 40);
    for (off_t place = 0; place < size; place++) {
        char byte = 0, flipped = 0;
        ASSERT_EQ(::pread(file.get(), &byte, 1, place), 1);
        flipped = static_cast<char>(byte ^ 0x10);
        ASSERT_EQ(::pwrite(file.get(), &flipped, 1, place), 1);
        auto read = read_working_set(file.get(), "f");
        ASSERT_FALSE(read) << "byte " << place;
        EXPECT_EQ(read.error().code, Code::corrupt);
        EXPECT_NE(read.error().message.find("f: working set"), std::string::npos);
        ASSERT_EQ(::pwrite(file.get(), &byte, 1, place), 1);
    }
    ASSERT_TRUE(read_working_set(file.get(), "f"));
    for (off_t cut = size - 1; cut >= 0; cut--) {
        ASSERT_EQ(::ftruncate(file.get(), cut), 0);
        EXPECT_FALSE(read_working_set(file.get(), "f")) << cut << " bytes";
    }
}

TEST(WorkingSetFile, IsRefusedWithRunsThatAreNotOfItsImageInOrderAndDisjoint) {
    expect_corrupt(set_of({{0, 0, false}}));
    expect_corrupt(set_of({{kPages, 1, false}}));
    expect_corrupt(set_of({{kPages - 1, 2, false}}));
    expect_corrupt(set_of({{0, UINT32_MAX, false}}));
    expect_corrupt(set_of({{UINT64_MAX, 1, false}}));
    expect_corrupt(set_of({{UINT64_MAX - 1, UINT32_MAX, true}}));
    expect_corrupt(set_of({{4, 2, false}, {5, 1, true}}));
    expect_corrupt(set_of({{4, 1, false}, {3, 1, false}}));
    expect_corrupt(set_of({{4, 1, false}, {4, 1, true}}));
}

TEST(WorkingSetFile, IsRefusedWithMoreThanTheLimits) {
    WorkingSet set = set_of({});
    set.image_bytes = limits::kGiB;
    uint32_t most = limits::kWorkingSetWrittenPagesMax;
    set.runs = {{0, most, true}, {most, 100, false}};
    EXPECT_TRUE(decoded(set));
    set.runs.push_back({most + 100, 1, true});
    expect_corrupt(set);
    set.runs.clear();
    for (uint64_t run = 0; run < limits::kWorkingSetRunsMax; run++)
        set.runs.push_back({run * 2, 1, false});
    EXPECT_TRUE(decoded(set));
    auto file = empty_file();
    ASSERT_TRUE(write_working_set(file.get(), set));
    EXPECT_TRUE(read_working_set(file.get(), "f")) << "the largest has room";
    set.runs.push_back({limits::kWorkingSetRunsMax * 2, 1, false});
    expect_corrupt(set);
}

TEST(WorkingSetFile, OfAnyBytesIsRefused) {
    EXPECT_FALSE(decode_working_set({}));
    std::vector<std::byte> zeros(64);
    EXPECT_FALSE(decode_working_set(zeros));
}

// A private mapping of an image of two regions, each page with its number in it.
class TouchedPages : public testing::Test {
  protected:
    void SetUp() override {
        for (uint64_t page = 0; page < kPages; page++)
            ASSERT_EQ(::pwrite(image_.get(), &page, sizeof(page), static_cast<off_t>(page * kPage)),
                      static_cast<ssize_t>(sizeof(page)));
        ASSERT_EQ(::ftruncate(image_.get(), kPages * kPage), 0);
        auto mapped = GuestMemory::map_private(image_.get(), kExtents);
        ASSERT_TRUE(mapped) << mapped.error().message;
        memory_ = std::move(*mapped);
        ASSERT_TRUE(pagemap_);
    }
    static GuestAddress address_of(uint64_t page) {
        uint64_t offset = page * kPage;
        return offset < kFirst ? GuestAddress(offset)
                               : GuestAddress(4 * limits::kGiB + offset - kFirst);
    }
    // 'w' or 'r' for each page that was touched, '.' for one that was not.
    std::string touched() {
        auto runs = touched_pages(pagemap_.get(), memory_);
        EXPECT_TRUE(runs) << runs.error().message;
        std::string pages(kPages, '.');
        for (const PageRun& run : *runs)
            for (uint64_t page = run.first_page; page < run.first_page + run.pages; page++)
                pages.at(page) = run.written ? 'w' : 'r';
        return pages;
    }

    static constexpr uint64_t kFirst = 100 * kPage;
    static constexpr MemoryExtent kExtents[] = {
        {GuestAddress(0), kFirst},
        {GuestAddress(4 * limits::kGiB), kPages* kPage - kFirst},
    };
    UniqueFd image_ = empty_file();
    UniqueFd pagemap_{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
    GuestMemory memory_;
};

TEST_F(TouchedPages, AreThoseReadAndThoseWrittenApart) {
    EXPECT_EQ(touched(), std::string(kPages, '.'));
    for (uint64_t page : {3, 99, 100, 200})
        ASSERT_TRUE(memory_.write(address_of(page), page));
    ASSERT_EQ(*memory_.read<uint64_t>(address_of(50)), 50u);
    ASSERT_EQ(*memory_.read<uint64_t>(address_of(250)), 250u);
    std::string pages = touched();
    for (uint64_t page = 0; page < kPages; page++) {
        bool written = page == 3 || page == 99 || page == 100 || page == 200;
        EXPECT_EQ(pages[page] == 'w', written) << "page " << page;
    }
    // And what the kernel has mapped around them; never anything far away.
    EXPECT_EQ(pages[50], 'r');
    EXPECT_EQ(pages[250], 'r');
    for (uint64_t page : {20, 80, 150, 180, 220})
        EXPECT_EQ(pages[page], '.') << "page " << page;
}

TEST_F(TouchedPages, ArePopulatedInAnotherMapping) {
    WorkingSet set = set_of({{2, 1, true}, {90, 20, false}, {120, 3, true}, {255, 1, true}});
    auto populated = populate(memory_, set, Access::write);
    ASSERT_TRUE(populated) << populated.error().message;
    if (*populated == 0)
        GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
    EXPECT_EQ(*populated, 5u);
    populated = populate(memory_, set, Access::read);
    ASSERT_TRUE(populated) << populated.error().message;
    EXPECT_EQ(*populated, 20u);
    std::string pages = touched();
    for (uint64_t page = 0; page < kPages; page++) {
        bool written = page == 2 || (page >= 120 && page < 123) || page == 255;
        EXPECT_EQ(pages[page] == 'w', written) << "page " << page;
        bool read = page >= 90 && page < 110;
        EXPECT_TRUE(!read || pages[page] == 'r') << "page " << page;
        EXPECT_EQ(*memory_.read<uint64_t>(address_of(page)), page) << "nothing was changed";
    }
}

TEST_F(TouchedPages, BeyondTheImageCannotBePopulated) {
    ASSERT_EQ(::ftruncate(image_.get(), 10 * kPage), 0);
    auto populated = populate(memory_, set_of({{200, 1, false}}), Access::read);
    ASSERT_FALSE(populated);
    EXPECT_NE(populated.error().message.find("guest memory"), std::string::npos);
    EXPECT_FALSE(memory_.populate(kPages * kPage, kPage, Access::read));
    EXPECT_FALSE(memory_.populate(UINT64_MAX - kPage + 1, 2 * kPage, Access::read));
}

}  // namespace
}  // namespace spore
