#pragma once

// A block device over a file, with a driver for each of its queues.

#include <algorithm>
#include <cstring>

#include "devices/virtio/block.h"
#include "tests/unit/support/disk_bench.h"
#include "tests/unit/support/fake_driver.h"

namespace spore::test {

constexpr uint64_t bit(unsigned feature) {
    return uint64_t{1} << feature;
}

class BlockBench : public DiskBench {
  protected:
    ~BlockBench() override {
        if (device)
            reset();
    }

    // A device over the file "disk" that holds `model`, its driver's queues set up and running.
    void start(BlockConfig config = {}, uint64_t without = 0) {
        if (config.path.empty() && config.layers.empty())
            config.path = make_file("disk", model);
        config.id = "serial-1";
        auto made = VirtioBlock::create(memory, *loop, config);
        ASSERT_TRUE(made.has_value()) << made.error().message;
        device = std::move(*made);
        device->attach(&line);
        activate(without);
    }
    void activate(uint64_t without = 0) {
        uint64_t features = device->offered_features() & ~bit(kFeatureEventIndex) & ~without;
        ASSERT_TRUE(device->set_features(features).has_value());
        drivers.clear();
        for (size_t index = 0; index < device->queues().size(); index++) {
            // A driver starts with clean rings.
            ASSERT_TRUE(memory.write_bytes(GuestAddress((index + 1) << 20), Bytes(64 * 1024)));
            drivers.push_back(std::make_unique<FakeDriver>(memory, GuestAddress((index + 1) << 20),
                                                           uint16_t{256}, 1 << 20));
            auto state = drivers.back()->queue_state();
            ASSERT_TRUE(device->queues()[index].configure(state, false).has_value());
        }
        device->activate();
    }
    void reset() {
        bool done = false;
        device->reset([&] { done = true; });
        EXPECT_TRUE(until([&] { return done; }));
    }
    FakeDriver& driver(size_t queue = 0) { return *drivers[queue]; }

    Buffer header(uint32_t type, uint64_t sector = 0, size_t queue = 0) {
        virtio_blk_outhdr value = {};
        value.type = type;
        value.sector = sector;
        return driver(queue).readable(bytes_of(value));
    }
    struct Answer {
        int status = -1;
        uint32_t written = 0;
    };
    // Adds `buffers` and a status byte, kicks, and waits for the answer.
    Answer ask(std::vector<Buffer> buffers) {
        Buffer status = driver().writable(1);
        buffers.push_back(status);
        driver().add(buffers);
        device->kick();
        std::optional<UsedElement> used;
        EXPECT_TRUE(until([&] { return (used = driver().take_used()).has_value(); }));
        settle();
        return {static_cast<int>(driver().contents(status)[0]), used->written};
    }
    // Lets the turn of the loop end, in which interrupts are sent.
    void settle() {
        bool turned = false;
        loop->post([&] { turned = true; });
        EXPECT_TRUE(until([&] { return turned; }));
    }
    Answer ask_range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
        virtio_blk_discard_write_zeroes range = {sector, sectors, flags};
        return ask({header(type), driver().readable(bytes_of(range))});
    }
    Bytes read_all() {
        Buffer data = driver().writable(static_cast<uint32_t>(model.size()));
        EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN), data}).status, VIRTIO_BLK_S_OK);
        return driver().contents(data);
    }
    void expect_failed(size_t guest_errors) {
        EXPECT_EQ(line.failures, 1u);
        EXPECT_EQ(device->counters().guest_errors, guest_errors);
        EXPECT_FALSE(device->first_error().message.empty());
    }

    GuestMemory memory = make_memory(8 * limits::kMiB);
    CountingLine line;
    Bytes model = pattern(128 * 512, 1);
    std::unique_ptr<VirtioBlock> device;
    std::vector<std::unique_ptr<FakeDriver>> drivers;
};

}  // namespace spore::test
