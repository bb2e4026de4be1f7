#include "devices/pci/bus.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include <array>
#include <cstring>
#include <map>

namespace spore {
namespace {

constexpr uint32_t kBarBytes = 0x8000;
constexpr PciIdentity kIdentity = {.vendor = 0x1af4,
                                   .device = 0x1044,
                                   .class_code = 0xff0000,
                                   .revision = 1,
                                   .subsystem_vendor = 0x1af4,
                                   .subsystem = 0x44};

// A device whose BAR remembers bytes.
class MemoryDevice : public PciDevice {
  public:
    MemoryDevice() : PciDevice(kIdentity, kBarBytes), bytes(kBarBytes) {}
    void read_bar(uint32_t offset, std::span<std::byte> to) override {
        std::memcpy(to.data(), bytes.data() + offset, to.size());
    }
    void write_bar(uint32_t offset, std::span<const std::byte> from) override {
        std::memcpy(bytes.data() + offset, from.data(), from.size());
    }
    std::vector<std::byte> bytes;
};

class PciBusTest : public testing::Test {
  protected:
    PciBusTest() {
        device.assign_bar(GuestAddress(0xe0000000));
        EXPECT_TRUE(bus.attach(3, device).has_value());
    }

    template <typename T>
    T config(uint32_t slot, uint32_t offset, uint32_t function = 0) {
        T value;
        bus.read_config(slot << 15 | function << 12 | offset,
                        std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    template <typename T>
    void set_config(uint32_t slot, uint32_t offset, T value) {
        bus.write_config(slot << 15 | offset, std::as_bytes(std::span(&value, 1)));
    }
    template <typename T>
    bool write(uint64_t address, T value) {
        return bus.write_mmio(GuestAddress(address), std::as_bytes(std::span(&value, 1)));
    }
    template <typename T>
    std::optional<T> read(uint64_t address) {
        T value;
        if (!bus.read_mmio(GuestAddress(address), std::as_writable_bytes(std::span(&value, 1))))
            return std::nullopt;
        return value;
    }

    MemoryDevice device;
    PciBus bus;
};

TEST_F(PciBusTest, ShowsAHostBridgeAndTheDeviceAndNothingElse) {
    EXPECT_EQ(config<uint32_t>(0, PCI_CLASS_REVISION) >> 8, 0x060000u);
    EXPECT_EQ(config<uint32_t>(3, PCI_VENDOR_ID), 0x10441af4u);
    EXPECT_EQ(config<uint8_t>(3, PCI_HEADER_TYPE), 0) << "a single function";
    EXPECT_EQ(config<uint8_t>(3, PCI_INTERRUPT_PIN), 0);
    for (uint32_t slot = 1; slot < 32; slot++) {
        EXPECT_EQ(config<uint32_t>(slot, 0) == 0xffffffffu, slot != 3) << slot;
        EXPECT_EQ(config<uint32_t>(slot, 0, 1), 0xffffffffu) << "function 1 of " << slot;
    }
    EXPECT_EQ(config<uint32_t>(32 + 3, 0), 0xffffffffu) << "bus 1";
}

TEST_F(PciBusTest, ReadsTheSameAtEveryWidthAndAlignment) {
    std::array<std::byte, 64> bytes;
    for (uint32_t at = 0; at < bytes.size(); at++)
        bytes[at] = config<std::byte>(3, at);
    for (uint32_t at = 0; at < bytes.size() - 8; at++) {
        auto expect = [&](auto value) {
            EXPECT_EQ(std::memcmp(&value, bytes.data() + at, sizeof(value)), 0) << at;
        };
        expect(config<uint16_t>(3, at));
        expect(config<uint32_t>(3, at));
        expect(config<uint64_t>(3, at));
    }
    EXPECT_EQ(config<uint32_t>(3, 0x100), 0u) << "no extended capabilities";
    EXPECT_EQ(config<uint64_t>(3, 0xffc), ~uint64_t{0}) << "reaches into the next function";
}

TEST_F(PciBusTest, KeepsWhatIsReadOnly) {
    for (uint32_t at = 0; at < 256; at += 4)
        set_config<uint32_t>(3, at, 0xffffffff);
    EXPECT_EQ(config<uint32_t>(3, PCI_VENDOR_ID), 0x10441af4u);
    EXPECT_EQ(config<uint32_t>(3, PCI_CLASS_REVISION), 0xff000001u);
    EXPECT_EQ(config<uint16_t>(3, PCI_COMMAND),
              PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    EXPECT_EQ(config<uint16_t>(3, PCI_STATUS), 0);
    EXPECT_EQ(config<uint32_t>(3, PCI_BASE_ADDRESS_1), 0u);
    EXPECT_EQ(config<uint32_t>(3, PCI_ROM_ADDRESS), 0u);
    set_config<uint32_t>(9, PCI_COMMAND, 7);  // nobody there
}

TEST_F(PciBusTest, SizesTheBarAsLinuxDoes) {
    EXPECT_EQ(config<uint32_t>(3, PCI_BASE_ADDRESS_0), 0xe0000000u);
    set_config<uint32_t>(3, PCI_BASE_ADDRESS_0, ~0u);
    EXPECT_EQ(~(config<uint32_t>(3, PCI_BASE_ADDRESS_0) & ~0xfu) + 1, kBarBytes);
    set_config<uint32_t>(3, PCI_BASE_ADDRESS_0, 0xe0000000);
    EXPECT_EQ(device.bar_address(), GuestAddress(0xe0000000));
}

TEST_F(PciBusTest, DecodesTheBarOnlyWhileMemoryIsEnabled) {
    EXPECT_FALSE(write<uint32_t>(0xe0000010, 1));
    set_config<uint16_t>(3, PCI_COMMAND, PCI_COMMAND_MEMORY);
    EXPECT_TRUE(write<uint32_t>(0xe0000010, 0x12345678));
    EXPECT_EQ(read<uint16_t>(0xe0000012), 0x1234);
    set_config<uint16_t>(3, PCI_COMMAND, 0);
    EXPECT_FALSE(read<uint16_t>(0xe0000012).has_value());
}

TEST_F(PciBusTest, FollowsTheBarWhereTheGuestMovesIt) {
    set_config<uint16_t>(3, PCI_COMMAND, PCI_COMMAND_MEMORY);
    set_config<uint32_t>(3, PCI_BASE_ADDRESS_0, 0xc0008000);
    EXPECT_FALSE(read<uint8_t>(0xe0000000).has_value());
    EXPECT_TRUE(write<uint8_t>(0xc0008000, 1));
    set_config<uint32_t>(3, PCI_BASE_ADDRESS_0, 0xffff8000);  // ends at 4 GiB
    EXPECT_TRUE(write<uint8_t>(0xffffffff, 1));
    EXPECT_FALSE(write<uint8_t>(0x100000000, 1));
    EXPECT_FALSE(write<uint8_t>(~uint64_t{0}, 1));
}

TEST_F(PciBusTest, LeavesAccessesAcrossABarsEdgeUnanswered) {
    set_config<uint16_t>(3, PCI_COMMAND, PCI_COMMAND_MEMORY);
    EXPECT_TRUE(read<uint64_t>(0xe0000000 + kBarBytes - 8).has_value());
    EXPECT_FALSE(read<uint64_t>(0xe0000000 + kBarBytes - 4).has_value());
    EXPECT_FALSE(read<uint64_t>(0xe0000000 - 4).has_value());
}

TEST_F(PciBusTest, GivesOverlappingBarsToTheLowestSlot) {
    MemoryDevice other;
    other.assign_bar(GuestAddress(0xe0000000));
    ASSERT_TRUE(bus.attach(1, other).has_value());
    set_config<uint16_t>(3, PCI_COMMAND, PCI_COMMAND_MEMORY);
    set_config<uint16_t>(1, PCI_COMMAND, PCI_COMMAND_MEMORY);
    EXPECT_TRUE(write<uint8_t>(0xe0000000, 7));
    EXPECT_EQ(other.bytes[0], std::byte{7});
    EXPECT_EQ(device.bytes[0], std::byte{0});
}

TEST_F(PciBusTest, RefusesSlotsThatAreTakenOrNotThere) {
    MemoryDevice other;
    EXPECT_EQ(bus.attach(0, other).error().code, Code::already_exists);
    EXPECT_EQ(bus.attach(3, other).error().code, Code::already_exists);
    EXPECT_EQ(bus.attach(32, other).error().code, Code::invalid_argument);
}

}  // namespace
}  // namespace spore
