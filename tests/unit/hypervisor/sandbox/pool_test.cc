#include "hypervisor/sandbox/pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "hypervisor/base/limits.h"
#include "tests/unit/support/scratch_home.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class PoolTest : public ::testing::Test {
  protected:
    void put(const std::string& name) { stdfs::create_directories(home_->pools() / "py" / name); }

    const ScratchHome home_{"pool"};
};

TEST_F(PoolTest, GivesParkedBeforeReadyAndThenNothing) {
    for (const char* name : {"ready-a", "parked-b", "making-c", "keeper.log"})
        put(name);
    for (CloneSource expected : {CloneSource::parked, CloneSource::ready}) {
        std::string name(source_name(expected));
        auto taken = take_clone(*home_, "py", home_->sandboxes() / name);
        ASSERT_TRUE(taken) << taken.error().message;
        ASSERT_TRUE(taken->has_value());
        EXPECT_EQ((*taken)->source, expected);
        EXPECT_TRUE(stdfs::is_directory(home_->sandboxes() / name));
        // It is locked for whoever took it.
        EXPECT_FALSE(DirectoryLock::take(home_->sandboxes() / name));
    }
    auto none = take_clone(*home_, "py", home_->sandboxes() / "third");
    ASSERT_TRUE(none);
    EXPECT_FALSE(none->has_value());
    EXPECT_FALSE(stdfs::exists(home_->sandboxes() / "third"));
    EXPECT_TRUE(stdfs::exists(home_->pools() / "py/making-c"));
}

TEST_F(PoolTest, GivesNothingForATemplateWithoutPool) {
    auto none = take_clone(*home_, "py", home_->sandboxes() / "box");
    ASSERT_TRUE(none);
    EXPECT_FALSE(none->has_value());
    EXPECT_FALSE(has_pool(*home_, "py"));
}

TEST_F(PoolTest, LeavesANameThatIsTakenAlone) {
    put("parked-a");
    stdfs::create_directories(home_->sandboxes() / "box/mine");
    auto taken = take_clone(*home_, "py", home_->sandboxes() / "box");
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().code, Code::already_exists);
    EXPECT_TRUE(stdfs::exists(home_->sandboxes() / "box/mine"));
    EXPECT_TRUE(stdfs::exists(home_->pools() / "py/parked-a"));
}

TEST_F(PoolTest, GivesEachCloneToOne) {
    constexpr int kClones = 40, kTakers = 8;
    for (int number = 0; number < kClones; number++)
        put("parked-" + std::to_string(number));
    std::atomic<int> got = 0, next = 0;
    std::vector<std::thread> takers;
    for (int taker = 0; taker < kTakers; taker++) {
        takers.emplace_back([&] {
            for (;;) {
                std::string name = "box-" + std::to_string(next++);
                auto taken = take_clone(*home_, "py", home_->sandboxes() / name);
                if (!taken || !taken->has_value())
                    return;
                got++;
            }
        });
    }
    for (std::thread& taker : takers)
        taker.join();
    // A taker may leave one that another has just locked; it is still there for the next.
    int left = 0;
    for (auto taken = take_clone(*home_, "py", home_->sandboxes() / "last");
         taken && taken->has_value();
         taken = take_clone(*home_, "py", home_->sandboxes() / ("last-" + std::to_string(left))))
        left++;
    EXPECT_EQ(got + left, kClones);
    EXPECT_EQ(
        std::distance(stdfs::directory_iterator(home_->sandboxes()), stdfs::directory_iterator()),
        kClones);
}

TEST_F(PoolTest, ClearsAwayWhatADeadKeeperLeft) {
    for (const char* name : {"ready-a", "parked-b", "making-c"})
        put(name);
    auto pools = list_pools(*home_);
    ASSERT_TRUE(pools) << pools.error().message;
    ASSERT_EQ(pools->size(), 1u);
    EXPECT_FALSE(pools->front().alive);
    EXPECT_EQ(pools->front().parked + pools->front().ready, 0u);
    EXPECT_TRUE(stdfs::is_empty(home_->pools() / "py"));
}

TEST_F(PoolTest, ChecksItsSizes) {
    for (uint32_t size : {0u, limits::kPoolSizeMax + 1}) {
        auto started = start_pool(*home_, {"py", size, 0}, std::chrono::seconds(1));
        ASSERT_FALSE(started);
        EXPECT_EQ(started.error().code, Code::invalid_argument);
    }
    EXPECT_EQ(start_pool(*home_, {"py", 1, 0}, std::chrono::seconds(1)).error().code,
              Code::not_found);
    EXPECT_EQ(stop_pool(*home_, "py").error().code, Code::not_found);
}

}  // namespace
}  // namespace spore
