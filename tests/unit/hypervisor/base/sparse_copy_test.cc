#include "hypervisor/base/sparse_copy.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class SparseCopy : public ::testing::Test {
  protected:
    void SetUp() override {
        if (::access("/dev/shm", W_OK) == 0)
            there_ = memory_.emplace("copy", "/dev/shm").path();
    }
    static std::string content(const stdfs::path& path) {
        std::ifstream file(path, std::ios::binary);
        std::ostringstream text;
        text << file.rdbuf();
        return std::move(text).str();
    }
    // 40 MiB: data, a hole, zeros that are data, a last page that is not whole.
    void make_source() {
        int file = ::open((here_ / "from").c_str(), O_WRONLY | O_CREAT, 0600);
        ASSERT_EQ(::pwrite(file, "first", 5, 0), 5);
        std::string middle = std::string(1 << 20, '\0') + "middle";
        ASSERT_EQ(::pwrite(file, middle.data(), middle.size(), 20 << 20),
                  static_cast<ssize_t>(middle.size()));
        ASSERT_EQ(::pwrite(file, "last", 4, 40 << 20), 4);
        ::close(file);
    }

    const ScratchDirectory scratch_{"copy"};
    const stdfs::path& here_ = scratch_.path();
    // On a tmpfs where that is another file system: the kernel leaves such copies to us.
    std::optional<ScratchDirectory> memory_;
    stdfs::path there_;
};

TEST_F(SparseCopy, HasTheSameContentAndItsHoles) {
    make_source();
    for (const stdfs::path& directory : {here_, there_}) {
        if (directory.empty())
            continue;
        uint64_t reported = 0;
        auto copied =
            copy_sparse(here_ / "from", directory / "to", [&](uint64_t done) { reported = done; });
        ASSERT_TRUE(copied) << copied.error().message;
        EXPECT_EQ(content(here_ / "from"), content(directory / "to"));
        struct stat status = {};
        ASSERT_EQ(::stat((directory / "to").c_str(), &status), 0);
        EXPECT_LT(status.st_blocks * 512, 4 << 20);
        EXPECT_LE(reported, 4u << 20);
    }
}

TEST_F(SparseCopy, LeavesNothingBehindAndNothingOverwritten) {
    make_source();
    EXPECT_EQ(copy_sparse(here_ / "none", here_ / "to").error().code, Code::not_found);
    EXPECT_FALSE(stdfs::exists(here_ / "to"));
    std::ofstream(here_ / "to") << "mine";
    EXPECT_EQ(copy_sparse(here_ / "from", here_ / "to").error().code, Code::already_exists);
    EXPECT_EQ(content(here_ / "to"), "mine");
}

}  // namespace
}  // namespace spore
