#include "devices/virtio/pci_transport.h"

#include <gtest/gtest.h>

#include "devices/virtio/pci_layout.h"
#include "tests/unit/support/holding_device.h"
#include "tests/unit/support/transport_bed.h"

namespace spore {
namespace {

using test::FakeDriver;
using test::HoldingDevice;
using Driver = test::TransportDriver;

constexpr uint8_t kRunning = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                             VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
constexpr uint32_t kData0 = Driver::kVectorData;

class PciTransportTest : public testing::Test {
  protected:
    std::vector<QueueState> rings() { return {requests.queue_state(), events.queue_state()}; }
    void start() { ASSERT_TRUE(driver.start(rings())); }
    // Kicks by the doorbell and waits until the device has looked.
    void ring() {
        unsigned before = bed.device.processed;
        ASSERT_TRUE(bed.doorbells.ring(driver.doorbell()));
        ASSERT_TRUE(bed.until([&] { return bed.device.processed > before; }));
    }
    // Makes the device's queue fail, as a hostile driver would.
    void break_queue() {
        requests.publish(999);
        driver.kick();
    }

    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    GuestMemory memory = test::make_memory();
    FakeDriver requests{memory, GuestAddress(0x10000), 64};
    FakeDriver events{memory, GuestAddress(0x100000), 16};
    test::TransportBed<HoldingDevice> bed{*loop, memory};
    Driver& driver = bed.driver;
};

TEST_F(PciTransportTest, ShowsAModernDeviceWithItsCapabilities) {
    EXPECT_EQ(driver.config_read<uint32_t>(PCI_VENDOR_ID), 0x10421af4u);
    EXPECT_EQ(driver.config_read<uint8_t>(PCI_REVISION_ID), 1);
    EXPECT_EQ(driver.config_read<uint8_t>(PCI_INTERRUPT_PIN), 0);
    ASSERT_TRUE(driver.discover());
    EXPECT_GE(driver.common.length, sizeof(virtio_pci_common_cfg));
    EXPECT_GE(driver.notify.length, 2u);
    EXPECT_TRUE(driver.parts.contains(VIRTIO_PCI_CAP_PCI_CFG));
    EXPECT_EQ(driver.config_read<uint16_t>(driver.msix + PCI_MSIX_FLAGS), 3 - 1) << "3 vectors";
    EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_NUMQ), 2);
    EXPECT_EQ(driver.doorbell(0), driver.doorbell(1)) << "one doorbell for all";
    for (auto& [type, part] : driver.parts) {
        EXPECT_LE(part.offset + part.length, pci_layout::kBarBytes) << int{type};
    }
}

TEST_F(PciTransportTest, NegotiatesAndRunsLikeLinux) {
    start();
    EXPECT_TRUE(bed.device.active());
    EXPECT_TRUE(bed.device.has_feature(0));
    EXPECT_TRUE(bed.device.has_feature(VIRTIO_F_VERSION_1));
    ASSERT_TRUE(bed.doorbells.listening.contains(driver.doorbell()));

    requests.add({requests.writable(4)});
    events.add({events.writable(4)});
    ring();
    ASSERT_EQ(bed.device.held.size(), 2u);
    EXPECT_TRUE(bed.msi.sent.empty());
    bed.device.complete();
    EXPECT_EQ(bed.msi.take(kData0 + 1), 1u);
    bed.device.complete();
    EXPECT_EQ(bed.msi.take(kData0 + 2), 1u);
    EXPECT_TRUE(requests.take_used().has_value());
    EXPECT_TRUE(events.take_used().has_value());
}

TEST_F(PciTransportTest, KicksByAnExitToo) {
    start();
    requests.add({requests.writable(4)});
    driver.kick();
    EXPECT_EQ(bed.device.held.size(), 1u);
}

TEST_F(PciTransportTest, RefusesFeaturesThatWereNotOffered) {
    for (uint64_t features : {uint64_t{0}, uint64_t{0b101},  // no VERSION_1
                              driver.discover() ? driver.device_features() | 0b010 : 0}) {
        driver.set_status(0);
        driver.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        driver.set_driver_features(features);
        driver.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
        EXPECT_EQ(driver.status(), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        EXPECT_EQ(driver.status(), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        EXPECT_FALSE(bed.device.active());
    }
}

TEST_F(PciTransportTest, KeepsFeaturesOnceTheyAreSettled) {
    ASSERT_TRUE(driver.discover());
    ASSERT_TRUE(driver.negotiate());
    uint64_t features = bed.device.features();
    driver.set_driver_features(0);
    driver.write<uint32_t>(driver.common, VIRTIO_PCI_COMMON_GFSELECT, 0);
    EXPECT_EQ(driver.read<uint32_t>(driver.common, VIRTIO_PCI_COMMON_GF),
              static_cast<uint32_t>(features));
    EXPECT_EQ(bed.device.features(), features);
}

TEST_F(PciTransportTest, ShowsNoFeaturesBeyondTheSecondWord) {
    ASSERT_TRUE(driver.discover());
    for (uint32_t select : {2u, 3u, 31u, 32u, ~0u}) {
        driver.write<uint32_t>(driver.common, VIRTIO_PCI_COMMON_DFSELECT, select);
        EXPECT_EQ(driver.read<uint32_t>(driver.common, VIRTIO_PCI_COMMON_DF), 0u);
        driver.write<uint32_t>(driver.common, VIRTIO_PCI_COMMON_GFSELECT, select);
        driver.write<uint32_t>(driver.common, VIRTIO_PCI_COMMON_GF, ~0u);
        EXPECT_EQ(driver.read<uint32_t>(driver.common, VIRTIO_PCI_COMMON_GF), 0u);
    }
}

TEST_F(PciTransportTest, ShowsNoQueueBeyondTheLast) {
    ASSERT_TRUE(driver.discover());
    EXPECT_EQ(driver.queue_size(0), 64);
    EXPECT_EQ(driver.queue_size(1), 16);
    for (uint16_t index : {uint16_t{2}, uint16_t{0x8000}, uint16_t{0xffff}}) {
        EXPECT_EQ(driver.queue_size(index), 0);
        EXPECT_EQ(driver.set_up_queue(index, requests.queue_state(), 1), VIRTIO_MSI_NO_VECTOR);
        EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_Q_ENABLE), 0);
    }
}

TEST_F(PciTransportTest, RefusesVectorsBeyondTheTable) {
    ASSERT_TRUE(driver.discover());
    for (uint16_t vector : {uint16_t{3}, uint16_t{0x100}, uint16_t{0xffff}}) {
        EXPECT_EQ(driver.set_up_queue(0, requests.queue_state(), vector), VIRTIO_MSI_NO_VECTOR);
        driver.set_config_vector(vector);
        EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_MSIX),
                  VIRTIO_MSI_NO_VECTOR);
    }
    EXPECT_EQ(driver.set_up_queue(0, requests.queue_state(), 2), 2);
}

TEST_F(PciTransportTest, TellsThePlacesOfTheRingsAndKeepsThemOnceEnabled) {
    ASSERT_TRUE(driver.discover());
    QueueState state = requests.queue_state();
    state.descriptor_table |= 0x1'0000'0000;
    driver.set_up_queue(0, state, 1);
    QueueState other = events.queue_state();
    driver.set_up_queue(0, other, 2);
    auto low = driver.read<uint32_t>(driver.common, VIRTIO_PCI_COMMON_Q_DESCLO);
    auto high = driver.read<uint32_t>(driver.common, VIRTIO_PCI_COMMON_Q_DESCHI);
    EXPECT_EQ(low | uint64_t{high} << 32, state.descriptor_table);
    EXPECT_EQ(driver.queue_size(0), 64);
    EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_Q_MSIX), 2)
        << "vectors may change at any time";
}

TEST_F(PciTransportTest, NeedsResetWhenAQueueCannotBe) {
    auto starts = [&](auto change) {
        auto states = rings();
        change(states);
        return driver.start(states);
    };
    uint64_t outside = memory.size();
    EXPECT_FALSE(starts([&](auto& s) { s[0].descriptor_table = outside; }));
    EXPECT_EQ(driver.status(), kRunning | VIRTIO_CONFIG_S_NEEDS_RESET);
    EXPECT_EQ(bed.msi.take(kData0), 1u) << "the driver is told";
    EXPECT_FALSE(bed.device.active());
    driver.kick();
    EXPECT_EQ(bed.device.processed, 0u);
    EXPECT_FALSE(starts([&](auto& s) { s[1].used_ring = outside - 2; }));
    EXPECT_FALSE(starts([&](auto& s) { s[0].available_ring += 1; }));
    EXPECT_FALSE(starts([&](auto& s) { s[0].size = 48; }));
    EXPECT_FALSE(starts([&](auto& s) { s[1].size = 32; }));
    EXPECT_FALSE(starts([&](auto& s) { s[0].size = 0; }));
    EXPECT_EQ(bed.device.counters().guest_errors, 6u);
    EXPECT_TRUE(starts([](auto&) {})) << "a reset makes good";
}

TEST_F(PciTransportTest, RunsWithAQueueThatIsNotEnabled) {
    ASSERT_TRUE(driver.discover());
    ASSERT_TRUE(driver.negotiate());
    driver.set_up_queue(0, requests.queue_state(), 1);
    driver.select_queue(1);
    driver.write<uint16_t>(driver.common, VIRTIO_PCI_COMMON_Q_SIZE, 3);  // of no consequence
    driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    EXPECT_EQ(driver.status(), kRunning);
    driver.set_up_queue(1, events.queue_state(), 1);
    driver.select_queue(1);
    EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_Q_ENABLE), 0)
        << "too late: the device runs";
}

TEST_F(PciTransportTest, TellsOfABrokenQueueAndRecoversByReset) {
    start();
    break_queue();
    EXPECT_EQ(driver.status(), kRunning | VIRTIO_CONFIG_S_NEEDS_RESET);
    EXPECT_EQ(bed.msi.take(kData0), 1u);
    driver.kick();
    EXPECT_EQ(bed.device.processed, 2u) << "at DRIVER_OK, and when it failed";
    driver.set_status(0);
    EXPECT_EQ(driver.status(), 0);
    FakeDriver fresh(memory, GuestAddress(0x200000), 64);
    std::vector<QueueState> states = {fresh.queue_state(), events.queue_state()};
    ASSERT_TRUE(driver.start(states));
    fresh.add({fresh.writable(4)});
    driver.kick();
    EXPECT_EQ(bed.device.held.size(), 1u);
}

TEST_F(PciTransportTest, ResetsOnlyWhenNothingIsInFlightAnyMore) {
    start();
    requests.add({requests.writable(4)});
    requests.add({requests.writable(4)});
    driver.kick();
    driver.set_status(0);
    EXPECT_EQ(driver.status(), kRunning) << "not yet";
    driver.set_status(0);
    driver.set_config_vector(2);
    driver.set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
    EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_MSIX), 0) << "ignored";
    bed.device.complete();
    EXPECT_EQ(driver.status(), kRunning);
    bed.device.complete();
    EXPECT_EQ(driver.status(), 0);
    EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_MSIX), VIRTIO_MSI_NO_VECTOR);
    EXPECT_EQ(driver.queue_size(0), 64);
    EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_Q_ENABLE), 0);
    EXPECT_EQ(bed.device.features(), 0u);
}

TEST_F(PciTransportTest, KeepsStatusBitsUntilReset) {
    ASSERT_TRUE(driver.discover());
    driver.set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    driver.set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
    EXPECT_EQ(driver.status(), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    driver.set_status(VIRTIO_CONFIG_S_NEEDS_RESET | 0x30);
    EXPECT_EQ(driver.status(), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    driver.add_status(VIRTIO_CONFIG_S_FAILED);
    EXPECT_NE(driver.status() & VIRTIO_CONFIG_S_FAILED, 0);
}

TEST_F(PciTransportTest, ReadingTheIsrClearsIt) {
    start();
    EXPECT_EQ(driver.read<uint8_t>(driver.isr, 0), 0);
    requests.add({requests.writable(4)});
    driver.kick();
    bed.device.complete();
    bed.device.change_config();
    EXPECT_EQ(driver.read<uint8_t>(driver.isr, 0), 3);
    EXPECT_EQ(driver.read<uint8_t>(driver.isr, 0), 0);
}

TEST_F(PciTransportTest, TellsOfConfigurationChanges) {
    start();
    auto generation = driver.read<uint8_t>(driver.common, VIRTIO_PCI_COMMON_CFGGENERATION);
    EXPECT_EQ(driver.read<uint8_t>(driver.device, 0), 0);
    bed.device.change_config();
    EXPECT_EQ(bed.msi.take(kData0), 1u);
    EXPECT_NE(driver.read<uint8_t>(driver.common, VIRTIO_PCI_COMMON_CFGGENERATION), generation);
    EXPECT_EQ(driver.read<uint8_t>(driver.device, 0), 1);
    driver.write<uint16_t>(driver.device, 2, 0xabcd);
    EXPECT_EQ(driver.read<uint32_t>(driver.device, 0), 0xabcd0001u);
}

TEST_F(PciTransportTest, IgnoresAccessesOfTheWrongWidth) {
    ASSERT_TRUE(driver.discover());
    driver.write<uint8_t>(driver.common, VIRTIO_PCI_COMMON_Q_SELECT, 1);
    driver.write<uint32_t>(driver.common, VIRTIO_PCI_COMMON_STATUS, 1);
    driver.write<uint64_t>(driver.common, VIRTIO_PCI_COMMON_DFSELECT, ~0ull);
    EXPECT_EQ(driver.read<uint16_t>(driver.common, VIRTIO_PCI_COMMON_Q_SELECT), 0);
    EXPECT_EQ(driver.status(), 0);
    EXPECT_EQ(driver.read<uint32_t>(driver.common, VIRTIO_PCI_COMMON_DFSELECT), 0u);
    driver.write<uint64_t>(driver.common, VIRTIO_PCI_COMMON_Q_DESCLO, 0x1122334455667788);
    EXPECT_EQ(driver.read<uint64_t>(driver.common, VIRTIO_PCI_COMMON_Q_DESCLO),
              0x1122334455667788u);
}

TEST_F(PciTransportTest, AnswersEveryOffsetOfTheBarAtEveryWidth) {
    start();
    std::array<std::byte, 8> bytes;
    for (uint32_t offset = 0; offset < pci_layout::kBarBytes; offset++) {
        for (size_t size : {1u, 2u, 4u, 8u}) {
            auto part = std::span(bytes).first(size);
            bool inside = offset + size <= pci_layout::kBarBytes;
            EXPECT_EQ(bed.bus.read_mmio(driver.in_bar(offset), part), inside);
        }
    }
    EXPECT_EQ(driver.status(), kRunning);
}

TEST_F(PciTransportTest, ReachesTheBarThroughConfigurationSpace) {
    ASSERT_TRUE(driver.discover());
    driver.config_write<uint16_t>(PCI_COMMAND, 0);  // works with decoding off
    uint32_t status = driver.common.offset + VIRTIO_PCI_COMMON_STATUS;
    driver.window_write(status, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    EXPECT_EQ(driver.window_read(status, 1) & 0xff, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    EXPECT_EQ(driver.window_read(driver.common.offset + VIRTIO_PCI_COMMON_NUMQ, 2) & 0xffff, 2u);
    driver.window_write(driver.device.offset, 4, 0xcafe);
    EXPECT_EQ(driver.window_read(driver.device.offset, 4), 0xcafeu);
    driver.window_write(driver.device.offset, 4, 0xbeef);
    for (auto [offset, size] : {std::pair{driver.device.offset + 1, 4u},
                                {driver.device.offset, 3u},
                                {pci_layout::kBarBytes, 4u},
                                {~0u, 1u},
                                {0u, 0u}}) {
        driver.window_write(offset, size, 0xdead);
        (void)driver.window_read(offset, size);
    }
    EXPECT_EQ(driver.window_read(driver.device.offset, 4), 0xbeefu) << "invalid windows do nothing";
}

TEST_F(PciTransportTest, MovesTheDoorbellWithTheBarButNotWhileItIsSized) {
    start();
    GuestAddress before = driver.doorbell();
    driver.config_write<uint16_t>(PCI_COMMAND, 0);
    driver.config_write<uint32_t>(PCI_BASE_ADDRESS_0, ~0u);
    driver.config_write<uint32_t>(PCI_BASE_ADDRESS_0, bed.kBarAddress);
    driver.config_write<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY);
    EXPECT_EQ(bed.doorbells.removed, 0u);
    EXPECT_TRUE(bed.doorbells.listening.contains(before));

    driver.config_write<uint16_t>(PCI_COMMAND, 0);
    driver.config_write<uint32_t>(PCI_BASE_ADDRESS_0, 0xe1000000);
    driver.config_write<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY);
    EXPECT_EQ(bed.doorbells.removed, 1u);
    EXPECT_EQ(driver.doorbell(), *before.checked_add(0x1000000));
    ring();
}

TEST_F(PciTransportTest, KeepsTheDoorbellOverAReset) {
    start();
    driver.set_status(0);
    EXPECT_EQ(bed.doorbells.listening.size(), 1u);
    start();
    EXPECT_EQ(bed.doorbells.removed, 0u);
    EXPECT_EQ(bed.doorbells.listening.size(), 1u);
}

TEST_F(PciTransportTest, WorksByExitsWhereTheHostRefusesADoorbell) {
    bed.doorbells.refuse = true;
    start();
    EXPECT_EQ(bed.transport.counters().doorbell_failures, 1u);
    requests.add({requests.writable(4)});
    driver.kick();
    EXPECT_EQ(bed.device.held.size(), 1u);
}

}  // namespace
}  // namespace spore
