#include "hypervisor/boot/layout.h"

#include <gtest/gtest.h>

namespace spore {
namespace {

using limits::kGiB;
using limits::kMiB;

constexpr uint64_t kSizes[] = {32 * kMiB, 3 * kGiB - 4096, 3 * kGiB, 3 * kGiB + 4096, 64 * kGiB};

TEST(Layout, PutsMemoryBelowAndAboveTheHole) {
    for (uint64_t bytes : kSizes) {
        auto extents = memory_extents(bytes);
        uint64_t total = 0;
        uint64_t end = 0;
        for (const MemoryExtent& extent : extents) {
            EXPECT_GE(extent.start.value(), end);
            EXPECT_GT(extent.size, 0u);
            EXPECT_TRUE(extent.start.is_aligned(4096));
            end = extent.start.value() + extent.size;
            EXPECT_TRUE(end <= 0xC000'0000 || extent.start.value() >= 4 * kGiB);
            total += extent.size;
        }
        EXPECT_EQ(total, bytes);
        EXPECT_EQ(extents.size(), bytes > 3 * kGiB ? 2u : 1u);
    }
    EXPECT_EQ(memory_extents(3 * kGiB + 4096)[1].start.value(), 4 * kGiB);
    EXPECT_EQ(memory_extents(3 * kGiB + 4096)[1].size, 4096u);
    EXPECT_TRUE(memory_extents(0).empty());
}

TEST(Layout, MemoryMapIsAscendingAndCoversAllRamButTheReserved) {
    for (uint64_t bytes : kSizes) {
        uint64_t end = 0;
        uint64_t ram = 0;
        bool window_reserved = false;
        bool tables_reserved = false;
        for (const MemoryMapEntry& entry : memory_map(bytes)) {
            EXPECT_GE(entry.start, end) << bytes;
            EXPECT_GT(entry.size, 0u);
            end = entry.start + entry.size;
            if (entry.type == MemoryType::ram) {
                ram += entry.size;
                EXPECT_TRUE(end <= layout::kHoleStart || entry.start >= layout::kHoleEnd);
                continue;
            }
            window_reserved |=
                entry.start <= layout::kEcamStart && layout::kEcamStart + layout::kEcamBytes <= end;
            tables_reserved |= entry.start <= layout::kRsdp && layout::kFirmwareEnd <= end;
        }
        EXPECT_EQ(ram, bytes - (layout::kFirmwareEnd - layout::kConventionalEnd));
        EXPECT_TRUE(window_reserved);
        EXPECT_TRUE(tables_reserved);
    }
}

TEST(Layout, TellsPowerOffFromOtherSleepControlWrites) {
    EXPECT_TRUE(layout::is_power_off(5 << 2 | 1 << 5));
    EXPECT_TRUE(layout::is_power_off(0xF7)) << "bits that are not the sleep type do not count";
    EXPECT_FALSE(layout::is_power_off(5 << 2)) << "without SLP_EN nothing happens";
    EXPECT_FALSE(layout::is_power_off(3 << 2 | 1 << 5)) << "another sleep state";
}

}  // namespace
}  // namespace spore
