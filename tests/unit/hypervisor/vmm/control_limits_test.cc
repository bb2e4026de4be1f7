// Limits over the control socket: spore's client on one end, a machine that takes notes on the
// other.
#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "hypervisor/base/quota_limits.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/vmm/control_server.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

class Notes final : public ControlTarget {
  public:
    Status control_status() override { return {}; }
    void control_pause(Done done) override { done({}); }
    void control_resume(Done done) override { done({}); }
    void control_snapshot(const std::string&, std::optional<VsockPorts>, Done done) override {
        done({});
    }
    spore::Status control_limits(const Limits& limits) override {
        taken.push_back(limits);
        return answer;
    }
    void control_quit() override {}

    std::vector<Limits> taken;
    spore::Status answer;
};

class ControlLimitsTest : public testing::Test {
  protected:
    void SetUp() override {
        auto made = EventLoop::create();
        if (!made)
            GTEST_SKIP() << made.error().message;
        loop = std::move(*made);
        auto socket = bind_control_socket(directory + "/control");
        ASSERT_TRUE(socket.has_value()) << socket.error().message;
        auto listening =
            ControlServer::listen(*loop, notes, std::move(*socket), directory + "/control");
        ASSERT_TRUE(listening.has_value()) << listening.error().message;
        server = std::move(*listening);
    }
    void TearDown() override {
        if (loop)
            loop->drain();
        server.reset();
    }
    Status set(const VmmLimits& limits) {
        Status answer = fail(Code::internal, "none");
        std::atomic<bool> done = false;
        std::thread client([&] {
            auto connected = VmmClient::connect(directory);
            answer = connected ? connected->set_limits(limits, std::chrono::steady_clock::now() +
                                                                   std::chrono::seconds(60))
                               : std::unexpected(connected.error());
            done = true;
            loop->post([] {});
        });
        EXPECT_TRUE(loop->run_until([&] { return done.load(); }, std::chrono::seconds(60)));
        client.join();
        return answer;
    }

    std::unique_ptr<EventLoop> loop;
    const ScratchDirectory scratch{"control"};
    const std::string directory = scratch.path();
    Notes notes;
    std::unique_ptr<ControlServer> server;
};

TEST_F(ControlLimitsTest, ArriveAsTheyWereSent) {
    VmmLimits limits;
    limits.disk = RateLimits{{50 << 20, 1 << 20}, {1000, 7}};
    limits.network = RateLimits{{}, {500, 50}};
    limits.disk_bytes = 3ull << 30;
    auto answer = set(limits);
    ASSERT_TRUE(answer.has_value()) << answer.error().message;
    ASSERT_EQ(notes.taken.size(), 1u);
    EXPECT_EQ(notes.taken[0].disk, limits.disk);
    EXPECT_EQ(notes.taken[0].network_rx, limits.network);
    EXPECT_EQ(notes.taken[0].network_tx, limits.network);
    EXPECT_EQ(notes.taken[0].disk_bytes, limits.disk_bytes);
}

TEST_F(ControlLimitsTest, WhatTheMachineRefusesIsAnswered) {
    notes.answer = fail(Code::invalid_argument, "it cannot shrink");
    VmmLimits limits;
    limits.disk_bytes = 4096;
    auto answer = set(limits);
    ASSERT_FALSE(answer.has_value());
    EXPECT_EQ(answer.error().code, Code::invalid_argument);
    EXPECT_NE(answer.error().message.find("it cannot shrink"), std::string::npos);
}

TEST_F(ControlLimitsTest, WhatIsNotThereStaysAsItIs) {
    VmmLimits limits;
    limits.disk = RateLimits{};
    ASSERT_TRUE(set(limits).has_value());
    ASSERT_EQ(notes.taken.size(), 1u);
    EXPECT_EQ(notes.taken[0].disk, RateLimits{}) << "no limit any more";
    EXPECT_FALSE(notes.taken[0].network_rx.has_value());
}

TEST_F(ControlLimitsTest, ValuesOutOfBoundsChangeNothing) {
    for (RateLimits bad : {RateLimits{{1, 1}, {}}, RateLimits{{1 << 20, 0}, {}},
                           RateLimits{{}, {limits::kRateOperationsMax + 1, 1}}}) {
        VmmLimits limits;
        limits.disk = RateLimits{{50 << 20, 1 << 20}, {}};
        limits.network = bad;
        auto answer = set(limits);
        ASSERT_FALSE(answer.has_value());
        EXPECT_EQ(answer.error().code, Code::invalid_argument) << answer.error().message;
    }
    EXPECT_TRUE(notes.taken.empty());
}

}  // namespace
}  // namespace spore
