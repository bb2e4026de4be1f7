#include "hypervisor/snapshot/seal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class SealTest : public ::testing::Test {
  protected:
    void SetUp() override {
        stdfs::create_directory(here_);
        for (const std::string& name : names_)
            std::ofstream(here_ / name) << "content of " << name;
        settle();
        make();
    }

    // The kernel's clock for files goes in steps of up to 10 ms (CONFIG_HZ).
    static void settle() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }
    void make() {
        auto seal = Seal::of(here_, names_);
        ASSERT_TRUE(seal) << seal.error().message;
        ASSERT_TRUE(seal->write(here_));
        settle();
    }
    // What the seal says of one of the files now: "" if it is right.
    std::string check(const std::string& name) {
        auto seal = Seal::read(here_);
        if (!seal)
            return seal.error().message;
        int file = ::open((here_ / name).c_str(), O_RDONLY);
        auto checked = seal->check(file, (here_ / name).string());
        ::close(file);
        EXPECT_TRUE(checked || checked.error().code == Code::corrupt);
        return checked ? "" : checked.error().message;
    }
    bool says(const std::string& name, const std::string& what) {
        std::string said = check(name);
        return said.find("/" + name) != std::string::npos && said.find(what) != std::string::npos;
    }

    const ScratchDirectory scratch_{"seal"};
    stdfs::path here_ = scratch_.path() / "files";
    std::vector<std::string> names_ = {"base.img", "memory.img"};
};

TEST_F(SealTest, IsThatOfFilesNobodyTouched) {
    EXPECT_EQ(check("base.img"), "");
    EXPECT_EQ(check("memory.img"), "");
    struct stat status = {};
    ASSERT_EQ(::stat((here_ / kSealFile).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0400u);
    EXPECT_EQ(status.st_size, 1176);
    // Reading one changes nothing, nor does moving all of it.
    stdfs::path moved = here_.string() + "-moved";
    stdfs::rename(here_, moved);
    here_ = moved;
    EXPECT_EQ(check("memory.img"), "");
}

TEST_F(SealTest, NoticesAFileThatWasWrittenTo) {
    {
        int file = ::open((here_ / "memory.img").c_str(), O_WRONLY);
        ASSERT_EQ(::pwrite(file, "X", 1, 0), 1);
        ::close(file);
    }
    EXPECT_TRUE(says("memory.img", "written to since"));
    EXPECT_EQ(check("base.img"), "");
    // Nor does it help to set the time of modification.
    make();
    struct stat before = {};
    ASSERT_EQ(::stat((here_ / "memory.img").c_str(), &before), 0);
    std::ofstream(here_ / "memory.img", std::ios::in | std::ios::out) << "Y";
    timespec times[2] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(::utimensat(AT_FDCWD, (here_ / "memory.img").c_str(), times, 0), 0);
    EXPECT_TRUE(says("memory.img", "changed since"));
}

TEST_F(SealTest, NoticesAFileThatWasReplaced) {
    struct stat before = {};
    ASSERT_EQ(::stat((here_ / "base.img").c_str(), &before), 0);
    stdfs::copy_file(here_ / "base.img", here_ / "other");
    timespec times[2] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(::utimensat(AT_FDCWD, (here_ / "other").c_str(), times, 0), 0);
    stdfs::rename(here_ / "other", here_ / "base.img");
    EXPECT_TRUE(says("base.img", "another inode"));
    ASSERT_EQ(::truncate((here_ / "memory.img").c_str(), 3), 0);
    EXPECT_TRUE(says("memory.img", "another length"));
    std::ofstream(here_ / "more.img") << "x";
    EXPECT_TRUE(says("more.img", "none of the files"));
}

TEST_F(SealTest, OfASharedFileOutlivesItsOtherLinks) {
    stdfs::create_hard_link(here_ / "base.img", here_ / "rootfs.ext4");
    settle();
    EXPECT_TRUE(says("base.img", "changed since")) << "its link came after the seal";
    make();
    stdfs::create_hard_link(here_ / "base.img", here_ / "of another template");
    stdfs::remove(here_ / "rootfs.ext4");
    settle();
    EXPECT_EQ(check("base.img"), "");
    std::ofstream(here_ / "of another template", std::ios::in | std::ios::out) << "X";
    EXPECT_TRUE(says("base.img", "written to since"));
}

TEST_F(SealTest, IsRefusedIfAnyBitOfItIsFlipped) {
    std::string path = (here_ / kSealFile).string();
    ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    for (int place = 0; place < 1176; place++) {
        file.seekg(place);
        auto byte = static_cast<char>(file.get());
        file.seekp(place);
        file.put(static_cast<char>(byte ^ (1 << place % 8)));
        file.flush();
        auto seal = Seal::read(here_);
        ASSERT_FALSE(seal) << place;
        EXPECT_EQ(seal.error().code, Code::corrupt) << place;
        EXPECT_NE(seal.error().message.find("/seal.spore"), std::string::npos);
        file.seekp(place);
        file.put(byte);
        file.flush();
    }
    EXPECT_TRUE(Seal::read(here_));
    for (off_t bytes : {0, 8, 1175}) {
        ASSERT_EQ(::truncate(path.c_str(), bytes), 0);
        EXPECT_FALSE(Seal::read(here_));
    }
    stdfs::remove(path);
    auto none = Seal::read(here_);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, Code::corrupt);
}

}  // namespace
}  // namespace spore
