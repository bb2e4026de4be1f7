#include "devices/virtio/queue.h"

#include <gtest/gtest.h>

#include "tests/unit/support/fake_driver.h"

namespace spore {
namespace {

using test::bytes_of;
using test::FakeDriver;

class QueueTest : public testing::Test {
  protected:
    QueueTest() { EXPECT_TRUE(queue.configure(driver.queue_state(), false).has_value()); }

    DescriptorChain pop_one() {
        auto chain = queue.pop();
        EXPECT_TRUE(chain.has_value() && chain->has_value());
        return std::move(**chain);
    }
    void expect_broken() {
        auto chain = queue.pop();
        ASSERT_FALSE(chain.has_value());
        EXPECT_EQ(chain.error().code, Code::corrupt);
        auto again = queue.pop();
        ASSERT_TRUE(again.has_value()) << "a broken queue is silent until it is reset";
        EXPECT_FALSE(again->has_value());
    }

    GuestMemory memory = test::make_memory();
    FakeDriver driver{memory, GuestAddress(0x10000), 16};
    Queue queue{memory, 256};
};

TEST_F(QueueTest, PopsNothingFromAnEmptyQueue) {
    auto chain = queue.pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_FALSE(chain->has_value());
}

TEST_F(QueueTest, GivesReadableThenWritableAndUsedElementsInOrder) {
    auto out = driver.writable(8);
    uint16_t first =
        driver.add({driver.readable(bytes_of("hello ")), driver.readable(bytes_of("world")), out});
    uint16_t second = driver.add({driver.writable(4)});

    DescriptorChain chain = pop_one();
    EXPECT_EQ(chain.readable_bytes(), 11u);
    EXPECT_EQ(chain.writable_bytes(), 8u);
    char text[12] = {};
    EXPECT_EQ(copy_from(chain.readable(), 3, std::as_writable_bytes(std::span(text, 11))), 8u);
    EXPECT_STREQ(text, "lo world");
    EXPECT_EQ(copy_to(chain.writable(), 2, bytes_of("abc")), 3u);
    queue.push(std::move(chain), 5);
    queue.push(pop_one(), 0);

    EXPECT_EQ(driver.text(out),
              "\xee\xee"
              "abc\xee\xee\xee");
    auto used = driver.take_used();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->head, first);
    EXPECT_EQ(used->written, 5u);
    EXPECT_EQ(driver.take_used()->head, second);
    EXPECT_FALSE(driver.take_used().has_value());
}

TEST_F(QueueTest, WrapsAroundManyTimes) {
    for (unsigned round = 0; round < 100'000; round++) {
        uint16_t head = driver.add({driver.writable(4)});
        DescriptorChain chain = pop_one();
        ASSERT_TRUE(chain.write(round).has_value());
        queue.push(std::move(chain), 4);
        auto used = driver.take_used();
        ASSERT_TRUE(used.has_value());
        ASSERT_EQ(used->head, head);
    }
}

TEST_F(QueueTest, FollowsAnIndirectTable) {
    VirtqDescriptor table[2] = {{0x30000, 4, kDescriptorNext, 1},
                                {0x31000, 8, kDescriptorWrite, 0}};
    ASSERT_TRUE(memory.write(GuestAddress(0x32000), table).has_value());
    driver.write_descriptor(3, {0x32000, sizeof(table), kDescriptorIndirect, 0});
    driver.publish(3);
    DescriptorChain chain = pop_one();
    EXPECT_EQ(chain.readable_bytes(), 4u);
    EXPECT_EQ(chain.writable_bytes(), 8u);
    queue.push(std::move(chain), 0);
}

TEST_F(QueueTest, TakesAnIndirectTableOfAsManyAsAChainMayHaveAndNoMore) {
    constexpr uint16_t kMax = limits::kChainDescriptorsMax;
    for (uint16_t count : {kMax, static_cast<uint16_t>(kMax + 1)}) {
        std::vector<VirtqDescriptor> table;
        for (uint16_t index = 0; index < count; index++)
            table.push_back({0x30000, 4, kDescriptorNext, static_cast<uint16_t>(index + 1)});
        table.back().flags = 0;
        auto bytes = std::as_bytes(std::span(table));
        ASSERT_TRUE(memory.write_bytes(GuestAddress(0x32000), bytes).has_value());
        driver.write_descriptor(
            3, {0x32000, static_cast<uint32_t>(bytes.size()), kDescriptorIndirect, 0});
        driver.publish(3);
        if (count > kMax) {
            expect_broken();
        } else {
            DescriptorChain chain = pop_one();
            EXPECT_EQ(chain.readable().size(), size_t{kMax});
            queue.push(std::move(chain), 0);
        }
    }
}

TEST_F(QueueTest, RejectsAChainThatLoops) {
    driver.write_descriptor(0, {0x30000, 4, kDescriptorNext, 1});
    driver.write_descriptor(1, {0x30000, 4, kDescriptorNext, 0});
    driver.publish(0);
    expect_broken();
}

TEST_F(QueueTest, RejectsADescriptorIndexBeyondTheTable) {
    driver.publish(16);
    expect_broken();
}

TEST_F(QueueTest, RejectsANextIndexBeyondTheTable) {
    driver.write_descriptor(0, {0x30000, 4, kDescriptorNext, 999});
    driver.publish(0);
    expect_broken();
}

TEST_F(QueueTest, RejectsAnAvailIndexThatJumps) {
    driver.set_available_index(17);
    expect_broken();
}

TEST_F(QueueTest, RejectsMoreRequestsAtATimeThanTheQueueHas) {
    std::vector<DescriptorChain> held;
    driver.write_descriptor(0, {0x30000, 4, 0, 0});
    for (int count = 0; count < 16; count++) {
        driver.publish(0);
        held.push_back(pop_one());
    }
    driver.publish(0);
    expect_broken();
    for (DescriptorChain& chain : held)
        chain.forget();
}

TEST_F(QueueTest, RejectsAddressesOutsideMemory) {
    for (uint64_t address : {memory.size() - 3, memory.size(), ~uint64_t{0} - 2, ~uint64_t{0}}) {
        ASSERT_TRUE(queue.configure(driver.queue_state(), false).has_value());
        driver.set_available_index(0);
        driver.write_descriptor(0, {address, 4, 0, 0});
        driver.publish(0);
        expect_broken();
    }
}

TEST_F(QueueTest, RejectsReadableAfterWritable) {
    driver.add({driver.writable(4), driver.readable(bytes_of("late"))});
    expect_broken();
}

TEST_F(QueueTest, RejectsNestedAndChainedAndRaggedIndirectTables) {
    VirtqDescriptor nested = {0x32000, 16, kDescriptorIndirect, 0};
    ASSERT_TRUE(memory.write(GuestAddress(0x32000), nested).has_value());
    const VirtqDescriptor hostile[] = {
        {0x32000, 16, kDescriptorIndirect, 0},
        {0x33000, 16, kDescriptorIndirect | kDescriptorNext, 1},
        {0x33000, 17, kDescriptorIndirect, 0},
        {0x33000, 0, kDescriptorIndirect, 0},
    };
    for (const VirtqDescriptor& descriptor : hostile) {
        ASSERT_TRUE(queue.configure(driver.queue_state(), false).has_value());
        driver.set_available_index(0);
        driver.write_descriptor(0, descriptor);
        driver.publish(0);
        expect_broken();
    }
}

TEST_F(QueueTest, RejectsAChainOfTooManyBytes) {
    GuestMemory big = test::make_memory(32 * limits::kMiB);
    FakeDriver hostile(big, GuestAddress(0x10000), 16);
    Queue other(big, 256);
    ASSERT_TRUE(other.configure(hostile.queue_state(), false).has_value());
    hostile.add({{GuestAddress(0), 16 * limits::kMiB, true}, {GuestAddress(0), 4, true}});
    EXPECT_FALSE(other.pop().has_value());
}

TEST_F(QueueTest, RejectsBadGeometry) {
    auto good = driver.queue_state();
    auto with = [&](auto change) {
        QueueState state = good;
        change(state);
        return queue.configure(state, false).has_value();
    };
    EXPECT_FALSE(with([](QueueState& s) { s.size = 0; }));
    EXPECT_FALSE(with([](QueueState& s) { s.size = 3; }));
    EXPECT_FALSE(with([](QueueState& s) { s.size = 512; }));
    EXPECT_FALSE(with([](QueueState& s) { s.descriptor_table += 8; }));
    EXPECT_FALSE(with([](QueueState& s) { s.available_ring += 1; }));
    EXPECT_FALSE(with([](QueueState& s) { s.used_ring += 2; }));
    EXPECT_FALSE(with([&](QueueState& s) { s.used_ring = memory.size() - 4; }));
    EXPECT_FALSE(with([](QueueState& s) { s.descriptor_table = ~uint64_t{15}; }));
    EXPECT_FALSE(with([](QueueState& s) { s.next_available = 17; })) << "holds more than it has";
    EXPECT_FALSE(with([](QueueState& s) { s.next_used = 1; }));
    EXPECT_EQ(queue.state(), good) << "a refused configuration changes nothing";
}

TEST_F(QueueTest, InterruptsByFlag) {
    driver.add({driver.writable(4)});
    driver.add({driver.writable(4)});
    EXPECT_FALSE(queue.should_interrupt()) << "nothing was pushed yet";
    queue.push(pop_one(), 0);
    EXPECT_TRUE(queue.should_interrupt());
    EXPECT_FALSE(queue.should_interrupt()) << "it has been told";
    driver.set_available_flags(kAvailableNoInterrupt);
    queue.push(pop_one(), 0);
    EXPECT_FALSE(queue.should_interrupt());
}

TEST_F(QueueTest, InterruptsByEventIndex) {
    ASSERT_TRUE(queue.configure(driver.queue_state(), true).has_value());
    driver.set_used_event(1);  // after the second
    for (int count = 0; count < 3; count++)
        driver.add({driver.writable(4)});
    queue.push(pop_one(), 0);
    EXPECT_FALSE(queue.should_interrupt());
    queue.push(pop_one(), 0);
    EXPECT_TRUE(queue.should_interrupt());
    queue.push(pop_one(), 0);
    EXPECT_FALSE(queue.should_interrupt());
}

TEST_F(QueueTest, EnableKicksSeesWhatCameMeanwhile) {
    queue.disable_kicks();
    EXPECT_EQ(driver.used_flags(), kUsedNoNotify);
    driver.add({driver.writable(4)});
    EXPECT_TRUE(queue.enable_kicks());
    queue.push(pop_one(), 0);
    EXPECT_FALSE(queue.enable_kicks());
    EXPECT_EQ(driver.used_flags(), 0);
}

TEST_F(QueueTest, UnpopPutsTheChainBack) {
    uint16_t head = driver.add({driver.writable(4)});
    queue.unpop(pop_one());
    DescriptorChain again = pop_one();
    EXPECT_EQ(again.head(), head);
    queue.push(std::move(again), 0);
}

TEST_F(QueueTest, SavedStateGoesOnWhereItWas) {
    driver.add({driver.writable(4)});
    driver.add({driver.writable(4)});
    queue.push(pop_one(), 0);
    Queue restored(memory, 256);
    ASSERT_TRUE(restored.configure(queue.state(), false).has_value());
    EXPECT_EQ(restored.state(), queue.state());
    auto chain = restored.pop();
    ASSERT_TRUE(chain.has_value() && chain->has_value());
    restored.push(std::move(**chain), 0);
    driver.take_used();
    EXPECT_TRUE(driver.take_used().has_value());
}

}  // namespace
}  // namespace spore
