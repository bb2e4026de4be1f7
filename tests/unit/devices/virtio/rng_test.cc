#include "devices/virtio/rng.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/support/transport_bed.h"

namespace spore {
namespace {

using test::FakeDriver;

class RngTest : public testing::Test {
  protected:
    RngTest() {
        std::vector<QueueState> states = {driver.queue_state()};
        // Without event indices: an interrupt for every request.
        EXPECT_TRUE(bed.driver.start(states, ~(1ull << kFeatureEventIndex)));
    }
    test::UsedElement request(std::initializer_list<test::Buffer> buffers) {
        driver.add(buffers);
        bed.driver.kick();
        auto used = driver.take_used();
        EXPECT_TRUE(used.has_value());
        return used.value_or(test::UsedElement{});
    }

    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    GuestMemory memory = test::make_memory();
    FakeDriver driver{memory, GuestAddress(0x10000), 8};
    test::TransportBed<VirtioRng> bed{*loop, memory};
};

TEST_F(RngTest, FillsWhatItIsGivenWithBytesThatDiffer) {
    auto first = driver.writable(64), second = driver.writable(64);
    EXPECT_EQ(request({first}).written, 64u);
    EXPECT_EQ(request({second}).written, 64u);
    EXPECT_NE(driver.contents(first), driver.contents(second));
    EXPECT_EQ(bed.msi.take(bed.driver.kVectorData + 1), 2u);
}

TEST_F(RngTest, FillsAllBuffersOfAChain) {
    auto first = driver.writable(32), second = driver.writable(32);
    EXPECT_EQ(request({first, second}).written, 64u);
    std::vector<std::byte> untouched(32, std::byte{0xee});
    EXPECT_NE(driver.contents(first), untouched);
    EXPECT_NE(driver.contents(second), untouched);
}

TEST_F(RngTest, CutsALongRequestShort) {
    auto buffer = driver.writable(100 * 1024);
    EXPECT_EQ(request({buffer}).written, VirtioRng::kRequestBytesMax);
    auto bytes = driver.contents(buffer);
    EXPECT_TRUE(std::all_of(bytes.begin() + VirtioRng::kRequestBytesMax, bytes.end(),
                            [](std::byte b) { return b == std::byte{0xee}; }));
}

TEST_F(RngTest, AnswersARequestForNothing) {
    EXPECT_EQ(request({driver.readable(test::bytes_of("seed"))}).written, 0u);
    EXPECT_EQ(bed.device.counters().guest_errors, 1u);
    EXPECT_EQ(request({driver.writable(4)}).written, 4u) << "and goes on";
}

TEST_F(RngTest, ServesFullQueuesOneBatchAtATime) {
    for (int round = 0; round < 4; round++) {
        for (int count = 0; count < 8; count++)
            driver.add({driver.writable(16)});
        bed.driver.kick();
        // After a batch the device comes back by itself, without another kick.
        for (int count = 0; count < 8; count++)
            ASSERT_TRUE(bed.until([&] { return driver.take_used().has_value(); }));
    }
}

TEST_F(RngTest, ResetsBetweenTwoBatches) {
    for (int count = 0; count < 8; count++)
        driver.add({driver.writable(16)});
    bed.driver.kick();
    bed.driver.set_status(0);
    EXPECT_NE(bed.driver.status(), 0) << "the next batch is still to come";
    EXPECT_TRUE(bed.until([&] { return bed.driver.status() == 0; }));
}

TEST_F(RngTest, FailsOnABrokenQueueAndRecovers) {
    driver.publish(77);
    bed.driver.kick();
    EXPECT_NE(bed.driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    bed.driver.set_status(0);
    EXPECT_TRUE(bed.until([&] { return bed.driver.status() == 0; }));
    FakeDriver fresh(memory, GuestAddress(0x200000), 8);
    std::vector<QueueState> states = {fresh.queue_state()};
    ASSERT_TRUE(bed.driver.start(states));
    fresh.add({fresh.writable(16)});
    bed.driver.kick();
    EXPECT_TRUE(fresh.take_used().has_value());
}

TEST_F(RngTest, IsTheSameAfterRestore) {
    request({driver.writable(16)});
    auto restored = test::expect_same_after_restore(bed, memory);
    restored->device.resume();
    driver.add({driver.writable(16)});
    restored->driver.kick();
    EXPECT_TRUE(driver.take_used().has_value());
}

}  // namespace
}  // namespace spore
