// fs-verity, on an ext4 made for it in a file: as root, where the kernel has it (the bed's has).

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "hypervisor/snapshot/checksums.h"
#include "hypervisor/snapshot/seal.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

bool run(const std::string& command) {
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

class VerityTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0)
            GTEST_SKIP() << "only root can mount a file system with fs-verity";
        if (!stdfs::exists("/sys/fs/ext4/features/verity"))
            GTEST_SKIP() << "this kernel's ext4 has no fs-verity (CONFIG_FS_VERITY)";
        disk_ = here_.string() + ".ext4";
        std::ofstream(disk_).close();
        stdfs::resize_file(disk_, 32 << 20);
        if (!run("mkfs.ext4 -q -b 4096 -O verity " + disk_))
            GTEST_SKIP() << "mkfs.ext4 makes no ext4 with fs-verity";
        mount();
        if (!mounted_)
            GTEST_SKIP() << "no loop device to mount a file system with";
    }
    void TearDown() override {
        unmount();
        stdfs::remove(disk_);
    }
    void mount() { mounted_ = run("mount -o loop " + disk_ + " " + here_.string()); }
    void unmount() {
        if (mounted_)
            run("umount " + here_.string());
        mounted_ = false;
    }
    void write(const std::string& name, const std::string& bytes) {
        std::ofstream(here_ / name, std::ios::binary) << bytes;
    }
    std::string check(const std::string& name) {
        auto seal = Seal::read(here_);
        if (!seal)
            return seal.error().message;
        int file = ::open((here_ / name).c_str(), O_RDONLY);
        auto checked = seal->check(file, (here_ / name).string());
        ::close(file);
        return checked ? "" : checked.error().message;
    }
    // Changes `text`, once in the disk, below the file system.
    void flip_on_disk(const std::string& text) {
        unmount();
        std::fstream disk(disk_, std::ios::in | std::ios::out | std::ios::binary);
        std::string all(stdfs::file_size(disk_), '\0');
        ASSERT_TRUE(disk.read(all.data(), static_cast<std::streamsize>(all.size())));
        size_t place = all.find(text);
        ASSERT_NE(place, std::string::npos);
        ASSERT_EQ(all.find(text, place + 1), std::string::npos);
        disk.seekp(static_cast<std::streamoff>(place));
        disk.put(static_cast<char>(text[0] ^ 1));
        disk.close();
        mount();
        ASSERT_TRUE(mounted_);
    }

    const ScratchDirectory scratch_{"verity"};
    const stdfs::path& here_ = scratch_.path();
    std::string disk_;
    bool mounted_ = false;
};

TEST_F(VerityTest, MakesAFileTheOneThatItsDigestIsOf) {
    write("memory.img", std::string(1 << 20, 'm'));
    write("same.img", std::string(1 << 20, 'm'));
    write("other.img", std::string(1 << 20, 'o'));
    for (const char* name : {"memory.img", "same.img", "other.img"}) {
        auto enabled = enable_verity(here_ / name);
        ASSERT_TRUE(enabled) << enabled.error().message;
        ASSERT_TRUE(*enabled);
        EXPECT_TRUE(*enable_verity(here_ / name)) << "again";
    }
    EXPECT_EQ(::open((here_ / "memory.img").c_str(), O_WRONLY), -1) << "root can write it";
    EXPECT_EQ(errno, EPERM);
    std::vector<std::string> names = {"memory.img"};
    auto seal = Seal::of(here_, names);
    ASSERT_TRUE(seal);
    EXPECT_TRUE(seal->has_verity());
    ASSERT_TRUE(seal->write(here_));
    EXPECT_EQ(check("memory.img"), "");
    // Content decides, not which file it is.
    stdfs::rename(here_ / "same.img", here_ / "memory.img");
    EXPECT_EQ(check("memory.img"), "");
    stdfs::rename(here_ / "other.img", here_ / "memory.img");
    EXPECT_NE(check("memory.img").find("fs-verity digest"), std::string::npos);
    write("plain.img", std::string(1 << 20, 'm'));
    stdfs::rename(here_ / "plain.img", here_ / "memory.img");
    EXPECT_NE(check("memory.img").find("fs-verity digest"), std::string::npos);
}

TEST_F(VerityTest, FindsABlockThatTheDiskHasChanged) {
    std::string content(5 << 20, 'm');
    content.replace((3 << 20) + 100, 16, "here it will fail");
    write("memory.img", content);
    write("plain.img", std::string(4096, 'p') + "here it will not!");
    ASSERT_TRUE(*enable_verity(here_ / "memory.img"));
    std::vector<std::string> names = {"memory.img"};
    ASSERT_TRUE(Seal::of(here_, names)->write(here_));
    auto checksums = checksum_file(here_, "memory.img", {});
    ASSERT_TRUE(checksums);
    flip_on_disk("here it will fai");
    // Opening costs no look at it: the seal is right, and so is all but one page.
    EXPECT_EQ(check("memory.img"), "");
    int file = ::open((here_ / "memory.img").c_str(), O_RDONLY);
    char byte = 0;
    EXPECT_EQ(::pread(file, &byte, 1, 4 << 20), 1);
    EXPECT_EQ(::pread(file, &byte, 1, 3 << 20), -1);
    EXPECT_EQ(errno, EIO);
    ::close(file);
    auto compared = compare_file(here_, *checksums, {});
    ASSERT_FALSE(compared);
    EXPECT_EQ(compared.error().code, Code::corrupt);
    EXPECT_NE(compared.error().message.find("/memory.img: the bytes from 3145728"),
              std::string::npos)
        << compared.error().message;
}

}  // namespace
}  // namespace spore
