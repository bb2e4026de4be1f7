#include "devices/block/raw_disk.h"

#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "hypervisor/base/mapping.h"
#include "tests/unit/support/disk_bench.h"

namespace spore {
namespace {

using test::Bytes;

class RawDiskTest : public test::DiskBench {
  protected:
    std::unique_ptr<RawDisk> open(const std::string& where,
                                  DiskAccess access = DiskAccess::read_write) {
        auto file = open_disk_file(where, access);
        EXPECT_TRUE(file.has_value()) << file.error().message;
        return std::move(*RawDisk::create(*loop, std::move(*file)));
    }
    void exercise(Disk& disk) {
        EXPECT_EQ(content(disk, 0, model.size()), model);
        Bytes text = pattern(3 * 512, 9);
        ASSERT_EQ(write(disk, 512, text), 0);
        std::ranges::copy(text, model.begin() + 512);
        EXPECT_EQ(flush(disk), 0);
        ASSERT_EQ(zero(disk, 4096, 4096, false), 0);
        std::fill_n(model.begin() + 4096, 4096, std::byte{0});
        ASSERT_EQ(zero(disk, 12 * 1024, 8192, true), 0);
        std::fill_n(model.begin() + 12 * 1024, 8192, std::byte{0});
        EXPECT_EQ(content(disk, 0, model.size()), model);
    }
    Bytes model = pattern(64 * 1024, 1);
};

TEST_F(RawDiskTest, KeepsWhatIsWritten) {
    auto disk = open(make_file("disk", model));
    EXPECT_EQ(disk->capacity(), model.size());
    EXPECT_FALSE(disk->read_only());
    exercise(*disk);
}

TEST_F(RawDiskTest, ScattersAndGathers) {
    auto disk = open(make_file("disk", model));
    Bytes one(100), two(412), three(1024);
    iovec buffers[] = {{one.data(), 100}, {two.data(), 412}, {three.data(), 1024}};
    ASSERT_EQ(wait_for([&](DiskRequest& request) { disk->read(buffers, 1024, request); }), 0);
    one.insert(one.end(), two.begin(), two.end());
    one.insert(one.end(), three.begin(), three.end());
    EXPECT_TRUE(std::ranges::equal(one, std::span(model).subspan(1024, 1536)));
}

TEST_F(RawDiskTest, GoesOnAfterShortTransfers) {
    // The kernel moves at most 0x7ffff000 bytes at a time: a little over 2 GiB take two reads. A
    // hole of a memfd costs neither disk nor page cache.
    constexpr uint64_t kBytes = 2 * limits::kGiB + 64 * limits::kMiB;
    UniqueFd fd(::memfd_create("disk", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(fd.get(), kBytes), 0);
    auto disk = std::move(*RawDisk::create(*loop, {std::move(fd), "memfd", kBytes, true}));
    Bytes mark = pattern(512, 4);
    ASSERT_EQ(write(*disk, kBytes - 512, mark), 0);
    // Many times the same memory; only the last stretch is looked at.
    auto memory =
        Mapping::create(64 * limits::kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    ASSERT_TRUE(memory.has_value());
    std::vector<iovec> buffers(33, {memory->data(), memory->size()});
    ASSERT_EQ(wait_for([&](DiskRequest& request) { disk->read(buffers, 0, request); }), 0);
    EXPECT_TRUE(std::ranges::equal(memory->span().last(512), mark));
}

TEST_F(RawDiskTest, ReportsAFileThatGotShorter) {
    auto disk = open(make_file("disk", model));
    std::filesystem::resize_file(path("disk"), 1000);
    Bytes bytes(4096);
    EXPECT_EQ(read(*disk, 0, bytes), -EIO);
    EXPECT_EQ(read(*disk, 8192, bytes), -EIO);
}

TEST_F(RawDiskTest, DiscardGivesSpaceBack) {
    auto disk = open(make_file("disk", pattern(1 << 20, 5)));
    struct stat before = {}, after = {};
    ASSERT_EQ(flush(*disk), 0);
    ASSERT_EQ(::stat(path("disk").c_str(), &before), 0);
    int32_t result = discard(*disk, 0, 512 * 1024);
    if (result == -EOPNOTSUPP)
        GTEST_SKIP() << "the file system of " << directory << " cannot punch holes";
    ASSERT_EQ(result, 0);
    ASSERT_EQ(::stat(path("disk").c_str(), &after), 0);
    EXPECT_LE(after.st_blocks * 512, before.st_blocks * 512 - 500 * 1024);
    EXPECT_EQ(after.st_size, before.st_size);
}

TEST_F(RawDiskTest, WritesZerosWhereTheFileSystemCannotMakeThem) {
    // tmpfs has no ZERO_RANGE; 9 MiB of zeros take several writes.
    UniqueFd fd(::memfd_create("disk", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(fd.get(), 10 << 20), 0);
    DiskFile file{std::move(fd), "memfd", 10 << 20, true};
    auto disk = std::move(*RawDisk::create(*loop, std::move(file)));
    Bytes all = pattern(10 << 20, 6);
    ASSERT_EQ(write(*disk, 0, all), 0);
    ASSERT_EQ(zero(*disk, 1536, (9 << 20) + 512, false), 0);
    std::fill_n(all.begin() + 1536, (9 << 20) + 512, std::byte{0});
    EXPECT_EQ(content(*disk, 0, all.size()), all);
}

TEST_F(RawDiskTest, RefusesWritesWhenReadOnly) {
    auto disk = open(make_file("disk", model), DiskAccess::read_only);
    EXPECT_TRUE(disk->read_only());
    EXPECT_EQ(write(*disk, 0, Bytes(512)), -EROFS);
    EXPECT_EQ(discard(*disk, 0, 4096), -EROFS);
    EXPECT_EQ(zero(*disk, 0, 4096, false), -EROFS);
    EXPECT_EQ(flush(*disk), 0);
    EXPECT_EQ(content(*disk, 0, model.size()), model);
}

TEST_F(RawDiskTest, WorksOnABlockDevice) {
    UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control)
        GTEST_SKIP() << "no loop devices here: " << std::strerror(errno);
    UniqueFd backing(::open(make_file("backing", model).c_str(), O_RDWR | O_CLOEXEC));
    int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    std::string device = "/dev/loop" + std::to_string(number);
    UniqueFd loop_device(::open(device.c_str(), O_RDWR | O_CLOEXEC));
    if (number < 0 || !loop_device)
        GTEST_SKIP() << "no free loop device: " << std::strerror(errno);
    loop_config config = {};
    config.fd = static_cast<__u32>(backing.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(loop_device.get(), LOOP_CONFIGURE, &config) < 0)
        GTEST_SKIP() << "cannot set up " << device << ": " << std::strerror(errno);
    auto disk = open(device);
    EXPECT_EQ(disk->capacity(), model.size());
    exercise(*disk);
    int32_t discarded = discard(*disk, 32768, 4096);
    EXPECT_TRUE(discarded == 0 || discarded == -EOPNOTSUPP) << discarded;
}

}  // namespace
}  // namespace spore
