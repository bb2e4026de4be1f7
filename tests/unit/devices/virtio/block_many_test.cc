// VirtioBlock with many requests in flight.

#include <map>

#include "tests/unit/support/block_bench.h"

namespace spore {
namespace {

using test::Buffer;
using test::Bytes;

// Adds `count` reads of one sector each to a queue, each with one buffer for data and status.
struct ManyReads {
    std::map<uint16_t, std::pair<uint64_t, Buffer>> sent;
    unsigned right = 0, wrong = 0;
};

class BlockManyTest : public test::BlockBench {
  protected:
    void add_reads(size_t queue, unsigned count) {
        for (unsigned index = 0; index < count; index++) {
            uint64_t sector = (index * 7 + queue) % 128;
            Buffer data = driver(queue).writable(513);
            uint16_t head = driver(queue).add({header(VIRTIO_BLK_T_IN, sector, queue), data});
            reads[queue].sent[head] = {sector, data};
        }
    }
    void take(size_t queue) {
        ManyReads& state = reads[queue];
        while (auto used = driver(queue).take_used()) {
            auto node = state.sent.extract(static_cast<uint16_t>(used->head));
            ASSERT_FALSE(node.empty()) << "a head that was not in flight";
            auto [sector, data] = node.mapped();
            Bytes got = driver(queue).contents(data);
            bool same = used->written == 513 && got.back() == std::byte{VIRTIO_BLK_S_OK} &&
                        std::ranges::equal(std::span(got).first(512),
                                           std::span(model).subspan(sector * 512, 512));
            (same ? state.right : state.wrong)++;
        }
    }
    ManyReads reads[limits::kBlockQueuesMax];
};

TEST_F(BlockManyTest, HoldsHundredsInFlightOverItsQueuesAndAnswersEach) {
    BlockConfig config;
    config.path = make_file("disk", model);
    config.queues = 4;
    start(config);
    EXPECT_TRUE(device->has_feature(VIRTIO_BLK_F_MQ));
    for (size_t queue = 0; queue < 4; queue++)
        add_reads(queue, 120);
    device->kick();
    EXPECT_EQ(device->disk().in_flight(), limits::kBlockRequestsInFlightMax)
        << "480 wait, so many as may be are worked on";
    for (size_t queue = 0; queue < 4; queue++) {
        ASSERT_TRUE(until([&] {
            take(queue);
            return reads[queue].right + reads[queue].wrong == 120;
        })) << queue;
        EXPECT_EQ(reads[queue].wrong, 0u);
    }
    settle();
    EXPECT_EQ(device->disk().in_flight(), 0u);
    for (size_t queue = 0; queue < 4; queue++) {
        EXPECT_GE(line.used[queue], 1u);
        EXPECT_LT(line.used[queue], 60u) << "interrupts go out in batches";
    }
}

TEST_F(BlockManyTest, ResetWaitsForWhatIsInFlight) {
    start();
    for (unsigned round = 0; round < 20; round++) {
        add_reads(0, 100);
        device->kick();
        EXPECT_EQ(device->disk().in_flight(), 100u);
        bool done = false;
        device->reset([&] {
            EXPECT_EQ(device->disk().in_flight(), 0u);
            done = true;
        });
        EXPECT_FALSE(done);
        ASSERT_TRUE(until([&] { return done; }));
        EXPECT_EQ(driver().used_index(), 100u);
        reads[0] = {};
        activate();
    }
    EXPECT_EQ(read_all(), model);
}

TEST_F(BlockManyTest, QuiesceDrainsAndResumeGoesOn) {
    BlockConfig config;
    config.path = make_file("disk", model);
    config.queues = 3;
    start(config);
    for (size_t queue = 0; queue < 3; queue++)
        add_reads(queue, 110);
    device->kick();
    bool quiet = false;
    device->quiesce([&] { quiet = true; });
    ASSERT_TRUE(until([&] { return quiet; }));
    EXPECT_EQ(device->disk().in_flight(), 0u);
    unsigned interrupts = line.used[0] + line.used[1] + line.used[2];
    EXPECT_GE(interrupts, 1u) << "the driver was told of what ended";
    for (size_t queue = 0; queue < 3; queue++)
        take(queue);
    EXPECT_EQ(reads[0].right + reads[1].right + reads[2].right, limits::kBlockRequestsInFlightMax);
    device->kick();
    settle();
    EXPECT_EQ(device->disk().in_flight(), 0u) << "quiet means quiet";

    // A second device over the same memory and disk takes over, as after a snapshot.
    std::vector<QueueState> states;
    for (const Queue& queue : device->queues())
        states.push_back(queue.state());
    uint64_t features = device->features();
    reset();
    device.reset();
    auto made = VirtioBlock::create(memory, *loop, config);
    ASSERT_TRUE(made.has_value()) << made.error().message;
    device = std::move(*made);
    device->attach(&line);
    ASSERT_TRUE(device->restore(features, states).has_value());
    device->resume();
    ASSERT_TRUE(until([&] {
        for (size_t queue = 0; queue < 3; queue++)
            take(queue);
        return reads[0].right + reads[1].right + reads[2].right == 330;
    }));
    EXPECT_EQ(reads[0].wrong + reads[1].wrong + reads[2].wrong, 0u);
}

}  // namespace
}  // namespace spore
