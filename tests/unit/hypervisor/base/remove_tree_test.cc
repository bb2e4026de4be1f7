#include "hypervisor/base/remove_tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "hypervisor/base/unique_fd.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class RemoveTree : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(stdfs::create_directory(tree_)); }

    const ScratchDirectory scratch_{"remove"};
    const stdfs::path& place_ = scratch_.path();
    const stdfs::path tree_ = place_ / "tree";
};

TEST_F(RemoveTree, TakesAllBelowAndNothingBeside) {
    stdfs::create_directories(tree_ / "a/b/c");
    std::ofstream(tree_ / "a/b/file") << "content";
    std::ofstream(place_ / "beside") << "content";
    stdfs::create_symlink(place_ / "beside", tree_ / "a/link");
    ASSERT_TRUE(remove_tree(tree_));
    EXPECT_FALSE(stdfs::exists(tree_));
    EXPECT_TRUE(stdfs::exists(place_ / "beside"));
    EXPECT_TRUE(remove_tree(tree_));  // of none
}

// As a process that its starter, killed meanwhile, has just started in there.
TEST_F(RemoveTree, TakesWhatSomebodyMakesMeanwhile) {
    for (int round = 0; round < 20; round++) {
        stdfs::path inner = tree_ / "inner";
        stdfs::create_directories(inner);
        UniqueFd directory(::open(inner.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        ASSERT_TRUE(directory);
        std::atomic<int> made = 0;
        std::atomic<bool> gone = false;
        std::thread maker([&] {
            // No more than the tries of remove_tree().
            for (int number = 0; number < 500; number++) {
                UniqueFd file(::openat(directory.get(), std::to_string(number).c_str(),
                                       O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
                if (!file) {
                    gone = errno == ENOENT;
                    return;
                }
                made++;
            }
        });
        while (made == 0)
            std::this_thread::yield();
        auto removed = remove_tree(tree_);
        maker.join();
        ASSERT_TRUE(removed) << removed.error().message;
        EXPECT_FALSE(stdfs::exists(tree_));
        EXPECT_TRUE(gone || made == 500);
    }
}

TEST_F(RemoveTree, NamesWhatItCannotRemove) {
    std::ofstream(place_ / "file") << "content";
    auto removed = remove_tree(place_ / "file/below");
    ASSERT_FALSE(removed);
    EXPECT_NE(removed.error().message.find("file/below"), std::string::npos);
}

}  // namespace
}  // namespace spore
