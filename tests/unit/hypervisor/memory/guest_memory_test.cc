#include "hypervisor/memory/guest_memory.h"

#include <gtest/gtest.h>

#include "hypervisor/base/limits.h"

namespace spore {
namespace {

class GuestMemoryTest : public testing::Test {
  protected:
    static constexpr MemoryExtent kExtents[] = {
        {GuestAddress(0), 64 * limits::kKiB},
        {GuestAddress(4 * limits::kGiB), 64 * limits::kKiB},
    };
    GuestMemory memory = *GuestMemory::allocate(kExtents);
};

TEST_F(GuestMemoryTest, ReadsWhatWasWrittenAboveAndBelowTheHole) {
    for (uint64_t base : {uint64_t{0x1000}, 4 * limits::kGiB + 0x1000}) {
        ASSERT_TRUE(memory.write(GuestAddress(base), uint32_t{0xfeedbeef}).has_value());
        EXPECT_EQ(*memory.read<uint32_t>(GuestAddress(base)), 0xfeedbeef);
    }
    EXPECT_EQ(memory.size(), 128 * limits::kKiB);
}

TEST_F(GuestMemoryTest, RefusesRangesThatLeaveARegion) {
    const uint64_t end = 64 * limits::kKiB;
    EXPECT_TRUE(memory.range(GuestAddress(end - 4), 4).has_value());
    EXPECT_TRUE(memory.range(GuestAddress(end), 0).has_value());
    EXPECT_FALSE(memory.range(GuestAddress(end - 4), 5).has_value());
    EXPECT_FALSE(memory.range(GuestAddress(end), 1).has_value());
    EXPECT_FALSE(memory.range(GuestAddress(0), 4 * limits::kGiB + 8).has_value());
    EXPECT_FALSE(memory.range(GuestAddress(0xd0000000), 4).has_value());
    EXPECT_FALSE(memory.range(GuestAddress(~uint64_t{0}), 1).has_value());
    EXPECT_FALSE(memory.range(GuestAddress(16), ~uint64_t{0}).has_value());
    EXPECT_FALSE(memory.range(GuestAddress(4 * limits::kGiB), ~uint64_t{0} - 100).has_value());
}

TEST_F(GuestMemoryTest, NamesTheRangeItRefuses) {
    auto refused = memory.range(GuestAddress(0xd0000000), 16);
    ASSERT_FALSE(refused.has_value());
    EXPECT_NE(refused.error().message.find("0xd0000000+0x10"), std::string::npos);
}

}  // namespace
}  // namespace spore
