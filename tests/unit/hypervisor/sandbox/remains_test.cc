// What processes that died in the middle have left of sandboxes and templates.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "hypervisor/sandbox/sandbox.h"
#include "hypervisor/sandbox/vmm_process.h"
#include "tests/unit/support/scratch_home.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class RemainsTest : public ::testing::Test {
  protected:
    const ScratchHome home_{"remains"};
};

TEST_F(RemainsTest, OfSandboxesGoAtOnceUnlessSomebodyWorksOnThem) {
    for (const char* name : {".new-a", ".gone-b", "nameless", ".new-busy"})
        stdfs::create_directories(home_->sandboxes() / name / "deep");
    auto lock = DirectoryLock::take(home_->sandboxes() / ".new-busy");
    ASSERT_TRUE(lock);
    auto listed = list_sandboxes(*home_);
    ASSERT_TRUE(listed) << listed.error().message;
    EXPECT_TRUE(listed->empty());
    for (const char* name : {".new-a", ".gone-b", "nameless"})
        EXPECT_FALSE(stdfs::exists(home_->sandboxes() / name)) << name;
    EXPECT_TRUE(stdfs::exists(home_->sandboxes() / ".new-busy"));
}

TEST_F(RemainsTest, OfTemplatesGoAtOnceUnlessSomebodyWorksOnThem) {
    for (const char* name : {".making-a-x", ".removing-b-x", ".making-busy-x"})
        stdfs::create_directories(home_->templates() / name / "run");
    auto lock = DirectoryLock::take(home_->templates() / ".making-busy-x");
    ASSERT_TRUE(lock);
    auto listed = list_templates(*home_);
    ASSERT_TRUE(listed) << listed.error().message;
    EXPECT_FALSE(stdfs::exists(home_->templates() / ".making-a-x"));
    EXPECT_FALSE(stdfs::exists(home_->templates() / ".removing-b-x"));
    EXPECT_TRUE(stdfs::exists(home_->templates() / ".making-busy-x"));
}

TEST_F(RemainsTest, OfAProcessAreNotItsStartersToCollect) {
    auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    auto started = start_process("/bin/sh", {"sh", "-c", "echo ready >&3; read never"},
                                 home_->root(), home_->root() / "log", soon);
    ASSERT_TRUE(started) << started.error().message;
    ASSERT_TRUE(kill_process(*started, soon));
    EXPECT_FALSE(is_alive(*started));
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace spore
