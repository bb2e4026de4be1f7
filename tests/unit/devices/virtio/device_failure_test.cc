// A device that its driver breaks, as a log has it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hypervisor/base/log_limits.h"
#include "tests/unit/support/fake_driver.h"
#include "tests/unit/support/holding_device.h"

namespace spore {
namespace {

using testing::ElementsAre;

class DeviceFailure : public testing::Test {
  protected:
    void SetUp() override {
        auto made = EventLoop::create();
        ASSERT_TRUE(made.has_value()) << made.error().message;
        loop = std::move(*made);
        device = std::make_unique<test::HoldingDevice>(memory, *loop);
        device->on_failure([this](const std::string& line) { lines.push_back(line); });
    }
    // As often as it has been reset before.
    void break_device(uint64_t times) {
        for (; times > 0; times--) {
            device->device_error({Code::corrupt, "descriptor index 99"}, 1);
            device->reset([] {});
        }
    }

    GuestMemory memory = test::make_memory();
    std::unique_ptr<EventLoop> loop;
    std::unique_ptr<VirtioDevice> device;
    std::vector<std::string> lines;
};

TEST_F(DeviceFailure, IsToldWithDeviceQueueAndWhy) {
    break_device(2);
    device->device_error({Code::corrupt, "no queue of size 48"});
    EXPECT_THAT(lines,
                ElementsAre("holding: queue 1: descriptor index 99; it needs a reset (failure 1)",
                            "holding: queue 1: descriptor index 99; it needs a reset (failure 2)",
                            "holding: no queue of size 48; it needs a reset (failure 3)"));
}

TEST_F(DeviceFailure, IsToldOnceUntilTheReset) {
    for (int count = 0; count < 10; count++)
        device->device_error({Code::corrupt, "descriptor index 99"}, 0);
    EXPECT_EQ(lines.size(), 1u);
    EXPECT_EQ(device->counters().guest_errors, 10u);
    EXPECT_EQ(device->counters().failures, 1u);
}

TEST_F(DeviceFailure, OfWhichThereAreManyIsToldAtPowersOfTwo) {
    break_device(1'000'000);
    EXPECT_EQ(device->counters().failures, 1'000'000u);
    // The first sixteen, and 2^5 to 2^19.
    ASSERT_EQ(lines.size(), limits::kFailuresTold + 15);
    EXPECT_THAT(lines.back(), testing::HasSubstr("(failure 524288)"));
}

TEST_F(DeviceFailure, IsNobodysIfNobodyListens) {
    device->on_failure(nullptr);
    break_device(1);
    EXPECT_EQ(device->counters().failures, 1u);
    EXPECT_TRUE(lines.empty());
}

}  // namespace
}  // namespace spore
