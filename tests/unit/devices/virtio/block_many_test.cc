// VirtioBlock with many requests in flight.

#include <map>

#include "tests/unit/support/block_bench.h"

namespace spore {
namespace {

using test::Buffer;
using test::Bytes;

Bytes sector_of(uint64_t number) {
    Bytes sector(512);
    for (size_t index = 0; index < sector.size(); index++)
        sector[index] = static_cast<std::byte>(number * 31 + index * (number | 1));
    return sector;
}

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

// As Linux writes back pages that lie all over its memory: in a table as long as it is told.
TEST_F(BlockManyTest, TakesARequestOfAsManySegmentsAsItAnnounces) {
    start();
    constexpr uint32_t kSegments = VirtioBlock::kSegmentsMax, kBytes = 256;
    Bytes data = pattern(kSegments * kBytes, 9);
    ASSERT_LE(data.size(), model.size());
    Buffer head = header(VIRTIO_BLK_T_OUT);
    std::vector<VirtqDescriptor> table = {{head.address.value(), head.size, kDescriptorNext, 1}};
    for (uint32_t index = 0; index < kSegments; index++) {
        Buffer part = driver().readable(std::span(data).subspan(index * kBytes, kBytes));
        table.push_back({part.address.value(), kBytes, kDescriptorNext,
                         static_cast<uint16_t>(table.size() + 1)});
    }
    Buffer status = driver().writable(1);
    table.push_back({status.address.value(), 1, kDescriptorWrite, 0});
    auto bytes = std::as_bytes(std::span(table));
    Buffer room = driver().readable(bytes);
    driver().write_descriptor(
        0, {room.address.value(), static_cast<uint32_t>(bytes.size()), kDescriptorIndirect, 0});
    driver().publish(0);
    device->kick();
    ASSERT_TRUE(until([&] { return driver().take_used().has_value(); }));
    settle();
    EXPECT_EQ(driver().contents(status)[0], std::byte{VIRTIO_BLK_S_OK});
    EXPECT_EQ(device->counters().guest_errors, 0u);
    std::ranges::copy(data, model.begin());
    EXPECT_EQ(read_all(), model);
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

// Writes, flushes, discards and reads in flight at a quiesce, on one queue: every one is answered
// once, by the device that had taken it or by the one that goes on, and the disk has what was
// written.
TEST_F(BlockManyTest, LosesAndRepeatsNothingFromOneDeviceToTheNext) {
    BlockConfig config;
    config.path = make_file("disk", model);
    start(config);
    std::map<uint16_t, Buffer> waiting;  // status bytes, by head
    Bytes expected = model;
    auto add = [&](std::vector<Buffer> buffers) {
        Buffer status = driver().writable(1);
        buffers.push_back(status);
        waiting[driver().add(buffers)] = status;
    };
    unsigned answered = 0, twice = 0, bad = 0;
    auto take_answers = [&] {
        while (auto used = driver().take_used()) {
            auto node = waiting.extract(static_cast<uint16_t>(used->head));
            answered++;
            twice += node.empty();
            bad += !node.empty() && driver().contents(node.mapped())[0] != std::byte{0};
        }
    };
    // Sectors 0 to 63 are written once each; 64 to 127 are discarded by eight.
    auto add_round = [&](uint64_t first) {
        for (uint64_t sector = first; sector < first + 16; sector++) {
            Bytes data = sector_of(sector);
            std::ranges::copy(data, expected.begin() + static_cast<ptrdiff_t>(sector * 512));
            add({header(VIRTIO_BLK_T_OUT, sector), driver().readable(data)});
        }
        add({header(VIRTIO_BLK_T_FLUSH)});
        virtio_blk_discard_write_zeroes range = {64 + first, 16, 0};
        std::ranges::fill(std::span(expected).subspan((64 + first) * 512, 16 * 512), std::byte{0});
        add({header(VIRTIO_BLK_T_DISCARD), driver().readable(test::bytes_of(range))});
    };
    unsigned handed_on = 0;
    for (uint64_t round = 0; round < 4; round++) {
        add_round(round * 16);
        device->kick();
        unsigned before = answered;
        bool quiet = false;
        device->quiesce([&] { quiet = true; });
        add({header(VIRTIO_BLK_T_FLUSH)});  // after the device has looked for the last time
        ASSERT_TRUE(until([&] { return quiet; }));
        take_answers();
        EXPECT_GT(answered, before);
        handed_on += static_cast<unsigned>(waiting.size());
        QueueState state = device->queues()[0].state();
        uint64_t features = device->features();
        reset();
        device.reset();
        auto made = VirtioBlock::create(memory, *loop, config);
        ASSERT_TRUE(made.has_value()) << made.error().message;
        device = std::move(*made);
        device->attach(&line);
        ASSERT_TRUE(device->restore(features, std::span(&state, 1)).has_value());
        device->resume();
    }
    ASSERT_TRUE(until([&] {
        take_answers();
        return waiting.empty();
    }));
    settle();
    EXPECT_EQ(driver().used_index(), 4 * 19);
    EXPECT_EQ(answered, 4u * 19);
    EXPECT_EQ(twice, 0u);
    EXPECT_EQ(bad, 0u);
    EXPECT_GE(handed_on, 4u) << "none was left for the next device: nothing was tested";
    EXPECT_EQ(file_content("disk"), expected);
}

}  // namespace
}  // namespace spore
