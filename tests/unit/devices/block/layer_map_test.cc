#include "devices/block/layer_map.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "hypervisor/base/crc32c.h"
#include "tests/unit/support/disk_bench.h"

namespace spore {
namespace {

constexpr uint64_t kMapCluster = LayerMap::kClusterBytes;

LayerMap random_map(uint64_t clusters, unsigned seed) {
    LayerMap map = *LayerMap::create(clusters * kMapCluster);
    std::mt19937_64 random(seed);
    for (int count = 0; count < 40; count++) {
        uint64_t first = random() % clusters;
        map.set(first, std::min(clusters, first + random() % 200));
    }
    return map;
}

// `bytes` with its checksum made right again, to get past it.
void seal(std::vector<std::byte>& bytes) {
    uint32_t crc = crc32c(std::span(bytes).first(bytes.size() - 4));
    std::memcpy(bytes.data() + bytes.size() - 4, &crc, 4);
}

TEST(LayerMap, HoldsWhatWasSetAndNothingElse) {
    LayerMap map = *LayerMap::create(100'000 * kMapCluster);
    EXPECT_FALSE(map.test(0));
    map.set(5, 5);
    EXPECT_EQ(map.count(), 0u);
    map.set(60, 70);
    map.set(32760, 32800);  // across two chunks
    map.set(65, 66);        // again
    map.set(99'999, 100'000);
    EXPECT_EQ(map.count(), 10u + 40 + 1);
    EXPECT_FALSE(map.test(59));
    EXPECT_TRUE(map.holds_all(60, 70));
    EXPECT_FALSE(map.holds_all(60, 71));
    EXPECT_TRUE(map.holds_all(32760, 32800));
    EXPECT_FALSE(map.test(32800));
    EXPECT_TRUE(map.test(99'999));
    EXPECT_FALSE(map.test(100'000)) << "nothing beyond the end";
    EXPECT_FALSE(map.test(~uint64_t{0}));
}

TEST(LayerMap, RefusesSizesOutOfBounds) {
    for (uint64_t bytes : {uint64_t{0}, uint64_t{512}, uint64_t{4097},
                           limits::kLayeredDiskBytesMax + kMapCluster, ~uint64_t{0}}) {
        auto map = LayerMap::create(bytes);
        ASSERT_FALSE(map.has_value()) << bytes;
        EXPECT_EQ(map.error().code, Code::invalid_argument);
    }
    EXPECT_TRUE(LayerMap::create(limits::kLayeredDiskBytesMax).has_value());
}

TEST(LayerMap, ComesBackFromBytesAsItWas) {
    for (uint64_t clusters : {1u, 63u, 64u, 32768u, 32769u, 300'000u}) {
        LayerMap map = random_map(clusters, static_cast<unsigned>(clusters));
        auto back = LayerMap::parse(map.serialize());
        ASSERT_TRUE(back.has_value()) << back.error().message;
        EXPECT_TRUE(*back == map);
        EXPECT_EQ(back->count(), map.count());
    }
    LayerMap empty = *LayerMap::create(kMapCluster);
    EXPECT_TRUE(*LayerMap::parse(empty.serialize()) == empty);
}

TEST(LayerMap, DetectsEveryFlippedBitAndEveryCut) {
    LayerMap map = random_map(40'000, 1);
    std::vector<std::byte> bytes = map.serialize();
    for (size_t index = 0; index < bytes.size(); index++) {
        bytes[index] ^= std::byte{1} << index % 8;
        auto parsed = LayerMap::parse(bytes);
        ASSERT_FALSE(parsed.has_value()) << "byte " << index;
        ASSERT_EQ(parsed.error().code, Code::corrupt);
        bytes[index] ^= std::byte{1} << index % 8;
    }
    for (size_t size = 0; size < bytes.size(); size += 7)
        ASSERT_FALSE(LayerMap::parse(std::span(bytes).first(size)).has_value());
    bytes.push_back(std::byte{0});
    EXPECT_FALSE(LayerMap::parse(bytes).has_value());
}

TEST(LayerMap, RefusesAForgeryThatHasItsChecksumRight) {
    LayerMap map = *LayerMap::create(70'000 * kMapCluster);
    map.set(0, 1);
    map.set(69'999, 70'000);
    const std::vector<std::byte> good = map.serialize();
    auto with = [&](size_t offset, uint64_t value, size_t size) {
        std::vector<std::byte> bytes = good;
        std::memcpy(bytes.data() + offset, &value, size);
        seal(bytes);
        auto parsed = LayerMap::parse(bytes);
        EXPECT_FALSE(parsed.has_value()) << "offset " << offset;
        return parsed.has_value() ? Code::internal : parsed.error().code;
    };
    EXPECT_EQ(with(0, 'X', 1), Code::corrupt);                 // identifier
    EXPECT_EQ(with(8, 2, 4), Code::version_mismatch);          // version
    EXPECT_EQ(with(12, 512, 4), Code::corrupt);                // cluster size
    EXPECT_EQ(with(16, 0, 8), Code::corrupt);                  // clusters
    EXPECT_EQ(with(16, ~uint64_t{0}, 8), Code::corrupt);       // clusters
    EXPECT_EQ(with(16, 69'999, 8), Code::corrupt);             // a bit beyond the end
    EXPECT_EQ(with(16, 32'768, 8), Code::corrupt);             // a chunk beyond the end
    EXPECT_EQ(with(24, 3, 8), Code::corrupt);                  // clusters held
    EXPECT_EQ(with(32, 1, 8), Code::corrupt);                  // chunks
    EXPECT_EQ(with(32, uint64_t{1} << 61, 8), Code::corrupt);  // chunks
    EXPECT_EQ(with(40, 2, 8), Code::corrupt);                  // index, not ascending
    EXPECT_EQ(with(40, ~uint64_t{0}, 8), Code::corrupt);       // index
    EXPECT_EQ(with(48, 0, 8), Code::corrupt);                  // a chunk without a bit
}

using LayerMapFile = test::DiskBench;

TEST_F(LayerMapFile, IsSavedAndLoaded) {
    LayerMap map = random_map(300'000, 3);
    ASSERT_TRUE(map.save(path("map")).has_value());
    map.set(7, 9);
    ASSERT_TRUE(map.save(path("map")).has_value()) << "replaces the first";
    auto back = LayerMap::load(path("map"));
    ASSERT_TRUE(back.has_value()) << back.error().message;
    EXPECT_TRUE(*back == map);
    EXPECT_FALSE(std::filesystem::exists(path("map.new")));
}

TEST_F(LayerMapFile, ErrorsSayWhat) {
    EXPECT_EQ(LayerMap::load(path("none")).error().code, Code::not_found);
    EXPECT_EQ(LayerMap::load(directory).error().code, Code::corrupt);
    make_file("empty", {});
    EXPECT_EQ(LayerMap::load(path("empty")).error().code, Code::corrupt);
    make_file("huge", {});
    std::filesystem::resize_file(path("huge"), uint64_t{1} << 40);
    EXPECT_EQ(LayerMap::load(path("huge")).error().code, Code::corrupt);
    LayerMap map = *LayerMap::create(kMapCluster);
    EXPECT_EQ(map.save(path("no/such/place")).error().code, Code::not_found);
}

}  // namespace
}  // namespace spore
