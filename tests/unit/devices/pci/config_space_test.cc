#include "devices/pci/config_space.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include <vector>

namespace spore {
namespace {

std::vector<uint8_t> saved(const ConfigSpace& space) {
    std::vector<uint8_t> bytes(space.bytes().size());
    std::memcpy(bytes.data(), space.bytes().data(), bytes.size());
    return bytes;
}

TEST(ConfigSpace, LinksCapabilitiesInOrder) {
    ConfigSpace space;
    EXPECT_EQ(space.get<uint16_t>(PCI_STATUS) & PCI_STATUS_CAP_LIST, 0);
    std::array<std::byte, 5> body = {std::byte{1}};
    uint32_t first = space.add_capability(0x09, body);
    uint32_t second = space.add_capability(0x11, body);
    EXPECT_NE(space.get<uint16_t>(PCI_STATUS) & PCI_STATUS_CAP_LIST, 0);
    EXPECT_EQ(space.get<uint8_t>(PCI_CAPABILITY_LIST), first);
    EXPECT_EQ(space.get<uint8_t>(first + 1), second);
    EXPECT_EQ(space.get<uint8_t>(second), 0x11);
    EXPECT_EQ(space.get<uint8_t>(second + 1), 0) << "the end";
    EXPECT_EQ(first % 4, 0u);
    EXPECT_EQ(second, first + 8) << "rounded up to a multiple of 4";
}

TEST(ConfigSpace, MasksEachBit) {
    ConfigSpace space;
    space.set<uint32_t>(0x10, 0xa5a5a5a5);
    space.set_writable<uint32_t>(0x10, 0x00ff0ff0);
    uint32_t ones = ~0u;
    space.write(0x10, std::as_bytes(std::span(&ones, 1)));
    EXPECT_EQ(space.get<uint32_t>(0x10), 0xa5ffaff5u);
    uint16_t zeros = 0;
    space.write(0x11, std::as_bytes(std::span(&zeros, 1)));
    EXPECT_EQ(space.get<uint32_t>(0x10), 0xa500a0f5u);
}

TEST(ConfigSpace, RestoresWhatWasSavedAndNothingThatNoDriverCouldWrite) {
    ConfigSpace space;
    space.set<uint16_t>(0, 0x1af4);
    space.set_writable<uint16_t>(4, 0x0006);
    auto bytes = saved(space);
    bytes[4] = 0x02;
    ASSERT_TRUE(space.restore(bytes).has_value());
    EXPECT_EQ(saved(space), bytes);

    for (size_t at = 0; at < bytes.size(); at++) {
        auto bad = bytes;
        bad[at] ^= 0x80;
        auto restored = space.restore(bad);
        ASSERT_FALSE(restored.has_value()) << at;
        EXPECT_EQ(restored.error().code, Code::corrupt);
    }
    for (size_t size : {size_t{0}, bytes.size() - 1, bytes.size() + 1}) {
        auto bad = bytes;
        bad.resize(size);
        EXPECT_FALSE(space.restore(bad).has_value()) << size;
    }
    EXPECT_EQ(saved(space), bytes) << "a refused state changes nothing";
}

}  // namespace
}  // namespace spore
