#include <gtest/gtest.h>

#include "tests/unit/support/holding_device.h"
#include "tests/unit/support/transport_bed.h"

namespace spore {
namespace {

using test::FakeDriver;
using test::HoldingDevice;
using Bed = test::TransportBed<HoldingDevice>;

class PciTransportStateTest : public testing::Test {
  protected:
    std::vector<QueueState> rings() { return {requests.queue_state(), events.queue_state()}; }
    void start() { ASSERT_TRUE(bed.driver.start(rings())); }
    std::unique_ptr<Bed> expect_same() { return test::expect_same_after_restore(bed, memory); }

    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    GuestMemory memory = test::make_memory();
    FakeDriver requests{memory, GuestAddress(0x10000), 64};
    FakeDriver events{memory, GuestAddress(0x100000), 16};
    Bed bed{*loop, memory};
};

TEST_F(PciTransportStateTest, IsTheSameBeforeTheDriverCame) {
    expect_same();
}

TEST_F(PciTransportStateTest, IsTheSameInTheMiddleOfNegotiation) {
    ASSERT_TRUE(bed.driver.discover());
    bed.driver.set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    bed.driver.set_driver_features(0x7777);
    bed.driver.write<uint32_t>(bed.driver.common, VIRTIO_PCI_COMMON_DFSELECT, 17);
    auto restored = expect_same();
    EXPECT_TRUE(restored->driver.negotiate()) << "the driver goes on";
}

TEST_F(PciTransportStateTest, IsTheSameWithFeaturesAndQueuesSetUp) {
    ASSERT_TRUE(bed.driver.discover());
    ASSERT_TRUE(bed.driver.negotiate());
    bed.driver.enable_msix();
    bed.driver.set_up_queue(0, requests.queue_state(), 1);
    bed.driver.set_up_queue(1, events.queue_state(), 7);
    auto restored = expect_same();
    EXPECT_EQ(restored->device.features(), bed.device.features());
    restored->driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    EXPECT_TRUE(restored->device.active());
}

TEST_F(PciTransportStateTest, GoesOnWhereItWasWhenRunning) {
    // Without event indices: an interrupt for every request.
    ASSERT_TRUE(bed.driver.start(rings(), ~(1ull << kFeatureEventIndex)));
    for (int count = 0; count < 3; count++)
        requests.add({requests.writable(4)});
    bed.driver.kick();
    while (!bed.device.held.empty())
        bed.device.complete();
    bed.device.change_config();
    bed.driver.set_vector(1, 0xfee00000, 0x41, true);
    requests.add({requests.writable(4)});
    bed.driver.kick();
    bed.device.complete();  // pending: its vector is masked
    requests.add({requests.writable(4)});

    auto restored = expect_same();
    EXPECT_EQ(restored->doorbells.listening.size(), 1u);
    EXPECT_TRUE(restored->msi.sent.empty());
    restored->driver.kick();
    EXPECT_EQ(restored->device.held.size(), 0u) << "not before resume()";
    restored->device.resume();
    ASSERT_EQ(restored->device.held.size(), 1u) << "what was available is found";
    restored->driver.set_vector(1, 0xfee00000, 0x41, false);
    EXPECT_EQ(restored->msi.take(0x41), 1u) << "what was pending is delivered";
    restored->device.complete();
    EXPECT_EQ(restored->msi.take(0x41), 1u);
    for (int count = 0; count < 5; count++)
        EXPECT_TRUE(requests.take_used().has_value());
}

TEST_F(PciTransportStateTest, TheSavedMachineMayGoOnToo) {
    start();
    bed.quiesce_and_save();
    bed.device.resume();
    requests.add({requests.writable(4)});
    bed.driver.kick();
    EXPECT_EQ(bed.device.held.size(), 1u);
}

TEST_F(PciTransportStateTest, IsTheSameWithAQueueNotEnabled) {
    ASSERT_TRUE(bed.driver.discover());
    ASSERT_TRUE(bed.driver.negotiate());
    bed.driver.set_up_queue(0, requests.queue_state(), 1);
    bed.driver.select_queue(1);
    bed.driver.write<uint16_t>(bed.driver.common, VIRTIO_PCI_COMMON_Q_SIZE, 3);
    bed.driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    ASSERT_TRUE(bed.device.active());
    expect_same();
}

TEST_F(PciTransportStateTest, AFailedDeviceStaysFailedUntilReset) {
    start();
    requests.add({requests.writable(4)});
    bed.driver.kick();
    bed.device.complete();
    requests.publish(999);
    bed.driver.kick();
    auto restored = expect_same();
    restored->device.resume();
    restored->driver.kick();
    EXPECT_EQ(restored->device.processed, 0u);
    EXPECT_NE(restored->driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    FakeDriver fresh(memory, GuestAddress(0x200000), 64);
    std::vector<QueueState> states = {fresh.queue_state(), events.queue_state()};
    EXPECT_TRUE(restored->driver.start(states));
}

TEST_F(PciTransportStateTest, IsTheSameAfterAReset) {
    start();
    bed.driver.set_status(0);
    expect_same();
}

TEST_F(PciTransportStateTest, KeepsTheBarWhereTheGuestPutIt) {
    start();
    bed.driver.config_write<uint16_t>(PCI_COMMAND, 0);
    bed.driver.config_write<uint32_t>(PCI_BASE_ADDRESS_0, 0xe1000000);
    bed.driver.config_write<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY);
    auto restored = expect_same();
    EXPECT_EQ(restored->transport.bar_address(), GuestAddress(0xe1000000));
    EXPECT_TRUE(restored->doorbells.listening.contains(bed.driver.doorbell()));
}

TEST_F(PciTransportStateTest, RefusesEveryFieldThatCannotBe) {
    start();
    const VirtioPciState good = bed.quiesce_and_save();
    auto error_of = [&](auto change) -> std::string {
        VirtioPciState state = good;
        change(state);
        Bed other(*loop, memory);
        auto restored = other.transport.restore(state);
        if (restored)
            return "none";
        EXPECT_EQ(restored.error().code, Code::corrupt) << restored.error().message;
        EXPECT_FALSE(other.device.active());
        return restored.error().message;
    };
    auto names = [&](const char* field, auto change) {
        std::string message = error_of(change);
        EXPECT_NE(message.find(field), std::string::npos) << message << " should name " << field;
    };
    EXPECT_EQ(error_of([](VirtioPciState&) {}), "none");
    names("config space", [](VirtioPciState& s) { s.config.clear(); });
    names("config space", [](VirtioPciState& s) { s.config[2] ^= 1; });
    names("config space", [](VirtioPciState& s) { s.config[PCI_BASE_ADDRESS_0] = 1; });
    names("msix table", [](VirtioPciState& s) { s.msix.table.clear(); });
    names("msix pending", [](VirtioPciState& s) { s.msix.pending.resize(99); });
    names("device_status", [](VirtioPciState& s) { s.device_status |= 0x10; });
    names("device_status", [](VirtioPciState& s) { s.device_status = VIRTIO_CONFIG_S_DRIVER_OK; });
    names("device_status",
          [](VirtioPciState& s) { s.device_status = VIRTIO_CONFIG_S_NEEDS_RESET; });
    names("isr", [](VirtioPciState& s) { s.isr = 4; });
    names("config_vector", [](VirtioPciState& s) { s.config_vector = 3; });
    names("count of queues", [](VirtioPciState& s) { s.queues.pop_back(); });
    names("count of queues", [](VirtioPciState& s) { s.queues.resize(1 << 16); });
    names("queue vectors", [](VirtioPciState& s) { s.queue_vectors.push_back(0); });
    names("queue 1 vector", [](VirtioPciState& s) { s.queue_vectors[1] = 0xfffe; });
    names("queue 0 index", [](VirtioPciState& s) {
        s.device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE;
        s.queues[0].next_used = 1;
    });
    names("features", [](VirtioPciState& s) { s.driver_features |= 2; });
    names("driver_features", [](VirtioPciState& s) {
        s.device_status &= static_cast<uint8_t>(~VIRTIO_CONFIG_S_DRIVER_OK);
        s.driver_features = 0;
    });
    names("size", [](VirtioPciState& s) { s.queues[0].size = 7; });
    names("size", [](VirtioPciState& s) { s.queues[1].size = 256; });
    names("guest range", [](VirtioPciState& s) { s.queues[0].used_ring = ~uint64_t{3}; });
    names("aligned", [](VirtioPciState& s) { s.queues[0].descriptor_table++; });
}

TEST_F(PciTransportStateTest, ReportsADoorbellThatTheHostRefuses) {
    start();
    VirtioPciState saved = bed.quiesce_and_save();
    Bed other(*loop, memory);
    other.doorbells.refuse = true;
    ASSERT_TRUE(other.transport.restore(saved).has_value());
    EXPECT_EQ(other.transport.counters().doorbell_failures, 1u);
}

}  // namespace
}  // namespace spore
