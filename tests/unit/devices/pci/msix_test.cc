#include "devices/pci/msix.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include "tests/unit/support/transport_driver.h"

namespace spore {
namespace {

class MsiXTest : public testing::Test {
  protected:
    void write(uint16_t vector, uint32_t offset, uint32_t value) {
        msix.write_table(vector * 16u + offset, test::bytes_of(value));
    }
    void set_up(uint16_t vector, uint32_t data, bool masked) {
        write(vector, PCI_MSIX_ENTRY_LOWER_ADDR, 0xfee01000);
        write(vector, PCI_MSIX_ENTRY_UPPER_ADDR, 0);
        write(vector, PCI_MSIX_ENTRY_DATA, data);
        write(vector, PCI_MSIX_ENTRY_VECTOR_CTRL, masked);
    }
    uint64_t pending() {
        uint64_t bits = 0;
        msix.read_pending(0, std::as_writable_bytes(std::span(&bits, 1)));
        return bits;
    }

    test::RecordingMsiSink sink;
    MsiX msix{5, sink};
};

TEST_F(MsiXTest, SendsNothingBeforeItIsEnabled) {
    set_up(1, 0x41, false);
    msix.signal(1);
    EXPECT_TRUE(sink.sent.empty());
    EXPECT_EQ(pending(), 0u);
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    EXPECT_TRUE(sink.sent.empty());
    msix.signal(1);
    EXPECT_EQ(sink.sent, (std::vector<MsiMessage>{{0xfee01000, 0x41}}));
}

TEST_F(MsiXTest, EveryVectorIsMaskedAtFirst) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    for (uint16_t vector = 0; vector < 5; vector++)
        msix.signal(vector);
    EXPECT_TRUE(sink.sent.empty());
    EXPECT_EQ(pending(), 0x1fu);
}

TEST_F(MsiXTest, DeliversOncePendingInterruptsWhenUnmasked) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    set_up(2, 0x42, true);
    msix.signal(2);
    msix.signal(2);
    EXPECT_EQ(pending(), 4u);
    write(2, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    EXPECT_EQ(sink.take(0x42), 1u);
    EXPECT_EQ(pending(), 0u);
    write(2, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    EXPECT_TRUE(sink.sent.empty());
}

TEST_F(MsiXTest, DeliversPendingInterruptsWhenTheFunctionIsUnmasked) {
    set_up(0, 0x40, false);
    set_up(1, 0x41, true);
    msix.set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    msix.signal(0);
    msix.signal(1);
    EXPECT_TRUE(sink.sent.empty());
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    EXPECT_EQ(sink.take(0x40), 1u);
    EXPECT_TRUE(sink.sent.empty()) << "vector 1 has its own mask";
    EXPECT_EQ(pending(), 2u);
}

TEST_F(MsiXTest, SendsTheMessageAsItIsWhenUnmasked) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    set_up(2, 0x42, true);
    msix.signal(2);
    write(2, PCI_MSIX_ENTRY_DATA, 0x52);
    write(2, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    EXPECT_EQ(sink.take(0x52), 1u);
}

TEST_F(MsiXTest, IgnoresAndCountsAddressesThatAreNoInterrupts) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    set_up(0, 0x40, false);
    for (uint32_t address : {0u, 0x1000u, 0xfed00000u, 0xfef00000u}) {
        write(0, PCI_MSIX_ENTRY_LOWER_ADDR, address);
        msix.signal(0);
    }
    write(0, PCI_MSIX_ENTRY_LOWER_ADDR, 0xfee00000);
    write(0, PCI_MSIX_ENTRY_UPPER_ADDR, 1);
    msix.signal(0);
    EXPECT_TRUE(sink.sent.empty());
    EXPECT_EQ(msix.ignored_messages(), 5u);
}

TEST_F(MsiXTest, TakesAccessesOfEveryWidthAndOffset) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    uint64_t address = 0xfee03000;
    msix.write_table(16 + 0, test::bytes_of(address));
    uint64_t data_and_control = 0x43;
    msix.write_table(16 + 8, test::bytes_of(data_and_control));
    msix.signal(1);
    EXPECT_EQ(sink.sent, (std::vector<MsiMessage>{{0xfee03000, 0x43}}));

    std::array<std::byte, 32> bytes;
    for (uint32_t offset : {77u, 79u, 80u, 4094u, ~0u}) {
        bytes.fill(std::byte{0xff});
        msix.write_table(offset, bytes);
        msix.read_table(offset, bytes);
        msix.read_pending(offset, bytes);
    }
    uint32_t control = 0;
    msix.read_table(4 * 16 + 12, std::as_writable_bytes(std::span(&control, 1)));
    EXPECT_EQ(control, 1u) << "reserved bits stay 0";
    msix.signal(5);
    msix.signal(VIRTIO_MSI_NO_VECTOR);
}

TEST_F(MsiXTest, RestoresWhatWasSaved) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    set_up(2, 0x42, true);
    msix.signal(2);
    test::RecordingMsiSink other_sink;
    MsiX other(5, other_sink);
    ASSERT_TRUE(other.restore(msix.state(), PCI_MSIX_FLAGS_ENABLE).has_value());
    EXPECT_EQ(other.state(), msix.state());
    EXPECT_TRUE(other_sink.sent.empty());
    uint32_t unmasked = 0;
    other.write_table(2 * 16 + 12, test::bytes_of(unmasked));
    EXPECT_EQ(other_sink.take(0x42), 1u);
}

TEST_F(MsiXTest, RefusesAStateThatIsNotItsOwn) {
    auto refused = [&](auto change) {
        MsiXState state = msix.state();
        change(state);
        auto restored = msix.restore(state, 0);
        return !restored && restored.error().code == Code::corrupt;
    };
    EXPECT_TRUE(refused([](MsiXState& s) { s.table.pop_back(); }));
    EXPECT_TRUE(refused([](MsiXState& s) { s.table.resize(1 << 20); }));
    EXPECT_TRUE(refused([](MsiXState& s) { s.pending.push_back(true); }));
    EXPECT_TRUE(refused([](MsiXState& s) { s.table[7] = 2; }));
}

}  // namespace
}  // namespace spore
