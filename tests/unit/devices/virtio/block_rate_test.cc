// The block device with limits. At a byte a second, what waits does so for longer than a test
// lasts.
#include "tests/unit/support/block_bench.h"

namespace spore {
namespace {

using namespace test;

class BlockRateTest : public BlockBench {
  protected:
    // So many reads of a sector, and the next after 512 s.
    static RateLimits sectors(uint64_t count) { return {.bytes = {1, 512 * count}}; }

    // Makes a read of a sector available; the answer's status is in the buffer when it is used.
    Buffer add_read() {
        Buffer status = driver().writable(1);
        driver().add({header(VIRTIO_BLK_T_IN), driver().writable(512), status});
        return status;
    }
    bool used() { return driver().take_used().has_value(); }
    // Reads until the limiter has something wait.
    void exhaust() {
        device->rate().change(sectors(1));
        add_read();
        add_read();
        device->kick();
        ASSERT_TRUE(until([&] { return used(); }));
        settle();
        ASSERT_TRUE(device->rate().waiting());
        ASSERT_FALSE(used());
    }
};

TEST_F(BlockRateTest, LetsTheBurstThroughAndHoldsTheRestInItsQueue) {
    start();
    device->rate().change(sectors(5));
    for (int added = 0; added < 20; added++)
        add_read();
    device->kick();
    int answered = 0;
    auto count = [&] {
        while (used())
            answered++;
        return answered;
    };
    ASSERT_TRUE(until([&] { return count() == 5; }));
    settle();
    EXPECT_FALSE(used());
    EXPECT_EQ(device->queues()[0].waiting(), 15);
    EXPECT_GT(device->rate().throttled_ns(), 0u);
    device->rate().change({});
    ASSERT_TRUE(until([&] { return count() == 20; }));
    EXPECT_EQ(device->statistics().reads, 20u);
}

TEST_F(BlockRateTest, CountsBytesOfReadsAndWritesAlike) {
    start();
    device->rate().change(sectors(8));
    Buffer data = driver().readable(bytes_of(std::string(4 * 512, 'x')));
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT), data}).status, VIRTIO_BLK_S_OK);
    EXPECT_FALSE(device->rate().waiting());
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN), driver().writable(4 * 512)}).status, VIRTIO_BLK_S_OK);
    EXPECT_FALSE(device->rate().waiting());
    add_read();
    device->kick();
    EXPECT_TRUE(device->rate().waiting());
    device->rate().change({});
}

TEST_F(BlockRateTest, ZerosAreChargedAsTheBytesThatTheyMayBe) {
    start();
    device->rate().change(sectors(1));
    auto answer = ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 64);
    if (answer.status == VIRTIO_BLK_S_UNSUPP)
        GTEST_SKIP() << "the file system of " << directory << " cannot make zeros";
    add_read();
    device->kick();
    EXPECT_TRUE(device->rate().waiting());
    device->rate().change({});
}

TEST_F(BlockRateTest, QuiescesWithRequestsThatWaitAndGoesOnWithThem) {
    start();
    exhaust();
    bool quiet = false;
    device->quiesce([&] { quiet = true; });
    ASSERT_TRUE(until([&] { return quiet; }));
    EXPECT_FALSE(device->rate().waiting());
    EXPECT_EQ(device->queues()[0].waiting(), 1) << "it is the driver's still";
    EXPECT_FALSE(used());
    device->resume();
    EXPECT_TRUE(device->rate().waiting()) << "the limit holds as before";
    device->rate().change({});
    ASSERT_TRUE(until([&] { return used(); }));
}

TEST_F(BlockRateTest, ResetsWithRequestsThatWait) {
    start();
    exhaust();
    reset();
    EXPECT_FALSE(device->rate().waiting());
    device->rate().change({});
    activate();
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN), driver().writable(512)}).status, VIRTIO_BLK_S_OK);
}

TEST_F(BlockRateTest, ARestoredDeviceHasNoLimitAndDoesWhatWaited) {
    start();
    exhaust();
    bool quiet = false;
    device->quiesce([&] { quiet = true; });
    ASSERT_TRUE(until([&] { return quiet; }));
    QueueState state = device->queues()[0].state();
    uint64_t features = device->features();
    BlockConfig config;
    config.path = make_file("copy", model);
    auto clone = VirtioBlock::create(memory, *loop, config);
    ASSERT_TRUE(clone.has_value()) << clone.error().message;
    ASSERT_TRUE((*clone)->restore(features, std::span(&state, 1)).has_value());
    EXPECT_FALSE((*clone)->rate().limited());
    (*clone)->resume();
    ASSERT_TRUE(until([&] { return used(); }));
    reset();
    device = std::move(*clone);
}

TEST_F(BlockRateTest, HoldsARateInRealTime) {
    start();
    constexpr uint64_t kRate = 2000, kBurst = 50, kRequests = 1050;
    device->rate().change({.operations = {kRate, kBurst}});
    uint64_t begun = monotonic_ns(), added = 0, answered = 0;
    ASSERT_TRUE(until([&] {
        while (added < kRequests && added - answered < 60) {
            add_read();
            added++;
        }
        device->kick();
        while (used())
            answered++;
        return answered == kRequests;
    }));
    double seconds = static_cast<double>(monotonic_ns() - begun) / 1e9;
    EXPECT_GE(seconds, 0.95 * (kRequests - kBurst) / kRate) << "never faster";
}

}  // namespace
}  // namespace spore
