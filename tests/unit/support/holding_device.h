#pragma once

// A virtio device of two queues that holds what it pops until the test says so.

#include <linux/virtio_ids.h>

#include <array>
#include <deque>

#include "devices/virtio/device.h"

namespace spore::test {

class HoldingDevice : public VirtioDevice {
  public:
    static constexpr uint16_t kQueueSizes[] = {64, 16};
    static constexpr uint64_t kOwnFeatures = 0b101;

    HoldingDevice(const GuestMemory& memory, EventLoop& loop)
        : VirtioDevice(VIRTIO_ID_BLOCK, memory, loop, kQueueSizes) {}
    ~HoldingDevice() override {
        while (!held.empty())
            complete();
    }

    const char* name() const override { return "holding"; }
    void read_config(uint32_t offset, std::span<std::byte> bytes) const override {
        for (size_t index = 0; index < bytes.size(); index++)
            bytes[index] = offset + index < 8 ? config[offset + index] : std::byte{0};
    }
    void write_config(uint32_t offset, std::span<const std::byte> bytes) override {
        for (size_t index = 0; index < bytes.size() && offset + index < 8; index++)
            config[offset + index] = bytes[index];
    }

    // Gives the oldest chain back, as used for 1 byte of what it can take.
    void complete() {
        auto [queue, chain] = std::move(held.front());
        held.pop_front();
        uint32_t written = chain.writable_bytes() > 0 ? 1 : 0;
        queues()[queue].push(std::move(chain), written);
        notify_used(queue);
        end_request();
    }
    void change_config() {
        config[0] = static_cast<std::byte>(std::to_integer<unsigned>(config[0]) + 1);
        if (line_ != nullptr)
            line_->config_changed();
    }

    std::array<std::byte, 8> config = {};
    std::deque<std::pair<uint16_t, DescriptorChain>> held;
    unsigned processed = 0;

  private:
    uint64_t device_features() const override { return kOwnFeatures; }
    void process() override {
        processed++;
        for (uint16_t index = 0; index < queues().size(); index++) {
            do {
                queues()[index].disable_kicks();
                while (pop(index)) {
                }
            } while (!failed() && queues()[index].enable_kicks());
        }
    }
    bool pop(uint16_t index) {
        auto chain = queues()[index].pop();
        if (!chain) {
            device_error(chain.error());
            return false;
        }
        if (!*chain)
            return false;
        begin_request();
        held.emplace_back(index, std::move(**chain));
        return true;
    }
};

}  // namespace spore::test
