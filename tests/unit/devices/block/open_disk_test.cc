#include "devices/block/open_disk.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "devices/block/layered_disk.h"
#include "tests/unit/support/disk_bench.h"

namespace spore {
namespace {

using test::Bytes;
using testing::HasSubstr;

class OpenDiskTest : public test::DiskBench {
  protected:
    Result<std::unique_ptr<Disk>> open(const std::string& name, bool read_only = false) {
        BlockConfig config;
        config.path = name.empty() ? "" : path(name);
        config.read_only = read_only;
        return open_disk(*loop, config);
    }
    void expect(const Result<std::unique_ptr<Disk>>& disk, Code code, const std::string& why) {
        ASSERT_FALSE(disk.has_value());
        EXPECT_EQ(disk.error().code, code) << disk.error().message;
        EXPECT_THAT(disk.error().message, HasSubstr(why));
    }
    Bytes bytes = pattern(16384, 1);
};

TEST_F(OpenDiskTest, RefusesWhatIsNoDiskAndSaysWhy) {
    expect(open(""), Code::invalid_argument, "path is empty");
    expect(open("missing"), Code::not_found, "missing");
    std::filesystem::create_directory(path("directory"));
    expect(open("directory"), Code::invalid_argument, "is a directory");
    expect(open("directory", true), Code::invalid_argument, "is a directory");
    make_file("empty", {});
    expect(open("empty"), Code::invalid_argument, "0 bytes");
    make_file("odd", Bytes(1000));
    expect(open("odd"), Code::invalid_argument, "1000 bytes");
    ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
    expect(open("fifo"), Code::invalid_argument, "no file or block device");
    BlockConfig device;
    device.path = "/dev/null";
    expect(open_disk(*loop, device), Code::invalid_argument, "no file or block device");
}

TEST_F(OpenDiskTest, RefusesWithoutPermission) {
    make_file("disk", bytes);
    std::filesystem::permissions(path("disk"), std::filesystem::perms::owner_read);
    std::filesystem::permissions(
        directory, std::filesystem::perms::others_exec | std::filesystem::perms::owner_all);
    bool root = ::geteuid() == 0;
    if (root && ::seteuid(65534) != 0)
        GTEST_SKIP() << "cannot become another user: " << std::strerror(errno);
    auto disk = open("disk");
    ASSERT_TRUE(!root || ::seteuid(0) == 0);
    expect(disk, Code::permission_denied, "disk");
}

TEST_F(OpenDiskTest, OneWriterOrManyReaders) {
    make_file("disk", bytes);
    auto reader = open("disk", true);
    ASSERT_TRUE(reader.has_value());
    auto another = open("disk", true);
    ASSERT_TRUE(another.has_value());
    expect(open("disk"), Code::unavailable, "already in use");
    reader->reset();
    another->reset();
    auto writer = open("disk");
    ASSERT_TRUE(writer.has_value()) << writer.error().message;
    expect(open("disk"), Code::unavailable, "already in use");
    expect(open("disk", true), Code::unavailable, "already in use");
}

TEST_F(OpenDiskTest, MakesACloneInOneGo) {
    make_file("base", bytes);
    BlockConfig config;
    config.base_path = path("base");
    config.path = path("top");
    config.create = true;
    config.bytes = 1 << 20;
    auto disk = open_disk(*loop, config);
    ASSERT_TRUE(disk.has_value()) << disk.error().message;
    EXPECT_EQ((*disk)->capacity(), 1u << 20);
    EXPECT_EQ(content(**disk, 0, bytes.size()), bytes);
    ASSERT_EQ(write(**disk, 512, Bytes(512)), 0);
    ASSERT_TRUE(dynamic_cast<LayeredDisk&>(**disk).save_map(path("map")).has_value());
    disk->reset();

    expect(open_disk(*loop, config), Code::already_exists, "top");
    config.create = false;
    expect(open_disk(*loop, config), Code::invalid_argument, "map_path");
    config.map_path = path("map");
    disk = open_disk(*loop, config);
    ASSERT_TRUE(disk.has_value()) << disk.error().message;
    std::fill_n(bytes.begin() + 512, 512, std::byte{0});
    EXPECT_EQ(content(**disk, 0, bytes.size()), bytes);
}

TEST_F(OpenDiskTest, AFailedCloneLeavesNothingBehind) {
    make_file("base", bytes);
    BlockConfig config;
    config.base_path = path("base");
    config.path = path("top");
    config.create = true;
    config.bytes = 8192;  // less than the base
    expect(open_disk(*loop, config), Code::invalid_argument, "base");
    EXPECT_FALSE(std::filesystem::exists(path("top")));
    config.bytes = 1000;
    expect(open_disk(*loop, config), Code::invalid_argument, "1000");
    EXPECT_FALSE(std::filesystem::exists(path("top")));
    config.bytes = 0;
    config.layers.push_back({path("base"), path("no-map")});
    expect(open_disk(*loop, config), Code::not_found, "no-map");
    EXPECT_FALSE(std::filesystem::exists(path("top")));
}

TEST_F(OpenDiskTest, RefusesFieldsThatContradictEachOther) {
    make_file("disk", bytes);
    BlockConfig config;
    config.path = path("disk");
    config.map_path = "m";
    expect(open_disk(*loop, config), Code::invalid_argument, "map_path");
    config.map_path.clear();
    config.bytes = 4096;
    expect(open_disk(*loop, config), Code::invalid_argument, "bytes");
    config.bytes = 0;
    config.create = true;
    expect(open_disk(*loop, config), Code::invalid_argument, "create");
    config.create = false;
    config.copy_on_write = true;
    config.read_only = true;
    expect(open_disk(*loop, config), Code::invalid_argument, "path");
    config.read_only = false;
    expect(open_disk(*loop, config), Code::invalid_argument, "0 bytes");
    config.bytes = 16384;
    expect(open_disk(*loop, config), Code::invalid_argument, "has data");
}

}  // namespace
}  // namespace spore
