#include "hypervisor/snapshot/checksums.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class ChecksumsTest : public ::testing::Test {
  protected:
    void write(const std::string& name, uint64_t offset, std::string_view bytes) {
        int file = ::open((here_ / name).c_str(), O_WRONLY | O_CREAT, 0600);
        ASSERT_EQ(::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset)),
                  static_cast<ssize_t>(bytes.size()));
        ::close(file);
    }
    FileChecksums of(const std::string& name) {
        auto checksums = checksum_file(here_, name, {});
        EXPECT_TRUE(checksums) << checksums.error().message;
        return *checksums;
    }
    void expect_corrupt(const Status& status, const std::vector<std::string>& words) {
        ASSERT_FALSE(status);
        EXPECT_EQ(status.error().code, Code::corrupt);
        for (const std::string& word : words)
            EXPECT_NE(status.error().message.find(word), std::string::npos)
                << status.error().message << " lacks " << word;
    }

    const ScratchDirectory scratch_{"checksums"};
    const stdfs::path& here_ = scratch_.path();
};

TEST_F(ChecksumsTest, NameTheChunkThatWasChanged) {
    write("disk", 0, std::string(5 << 20, 'd'));
    auto checksums = of("disk");
    EXPECT_EQ(checksums.bytes, 5u << 20);
    ASSERT_EQ(checksums.chunk_hashes.size(), 3u);
    EXPECT_EQ(checksums.chunk_hashes[0], checksums.chunk_hashes[1]);
    EXPECT_NE(checksums.chunk_hashes[1], checksums.chunk_hashes[2]) << "it is half as long";
    EXPECT_TRUE(compare_file(here_, checksums, {}));
    write("disk", (4 << 20) + 7, "e");
    expect_corrupt(compare_file(here_, checksums, {}),
                   {"/disk", "from 4194304 to 5242879", "do not match"});
    write("disk", (4 << 20) + 7, "d");
    EXPECT_TRUE(compare_file(here_, checksums, {}));
}

TEST_F(ChecksumsTest, AreTheSameForHolesAndZeros) {
    constexpr uint64_t kBytes = (9 << 20) + 100;
    write("zeros", 0, std::string(kBytes, '\0'));
    write("holes", 0, "");
    ASSERT_EQ(::truncate((here_ / "holes").c_str(), kBytes), 0);
    EXPECT_EQ(of("zeros").chunk_hashes, of("holes").chunk_hashes);
    // Data behind a hole in the same chunk, and in a later one.
    write("zeros", (5 << 20) + 4096, "data");
    write("holes", (5 << 20) + 4096, "data");
    EXPECT_EQ(of("zeros").chunk_hashes, of("holes").chunk_hashes);
    EXPECT_NE(of("holes").chunk_hashes[2], of("holes").chunk_hashes[3]);
}

TEST_F(ChecksumsTest, FindAFileOfAnotherLengthOrKind) {
    write("disk", 0, std::string(3 << 20, 'd'));
    auto checksums = of("disk");
    for (off_t bytes : {off_t{0}, off_t{(3 << 20) - 1}, off_t{(3 << 20) + 1}}) {
        ASSERT_EQ(::truncate((here_ / "disk").c_str(), bytes), 0);
        expect_corrupt(compare_file(here_, checksums, {}),
                       {"/disk", std::to_string(bytes) + " bytes", "3145728"});
    }
    stdfs::remove(here_ / "disk");
    expect_corrupt(compare_file(here_, checksums, {}), {"/disk", "is missing"});
    ASSERT_EQ(::mkfifo((here_ / "disk").c_str(), 0600), 0);
    expect_corrupt(compare_file(here_, checksums, {}), {"/disk", "not a regular file"});
}

TEST_F(ChecksumsTest, ComeBackAsTheyWereWritten) {
    write("empty", 0, "");
    write("some", 0, std::string(100, 's'));
    Checksums checksums = {of("empty"), of("some")};
    EXPECT_TRUE(checksums[0].chunk_hashes.empty());
    ASSERT_TRUE(write_checksums(here_, checksums));
    auto read = read_checksums(here_);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(*read, checksums);
    EXPECT_FALSE(write_checksums(here_, checksums)) << "they are written once";
}

TEST_F(ChecksumsTest, AreRefusedWhereTheyMakeNoSense) {
    auto refused = [](Checksums checksums) {
        auto decoded = decode_checksums(encode_checksums(checksums));
        return !decoded && decoded.error().code == Code::corrupt;
    };
    EXPECT_FALSE(refused({{"a", 0, {}}, {"b", 5, {1}}}));
    EXPECT_TRUE(refused({{"b", 0, {}}, {"a", 0, {}}}));
    EXPECT_TRUE(refused({{"a", 0, {}}, {"a", 0, {}}}));
    EXPECT_TRUE(refused({{"a", 5, {}}}));
    EXPECT_TRUE(refused({{"a", 0, {1}}}));
    EXPECT_TRUE(refused({{"a", ~uint64_t{0}, {1}}}));
    EXPECT_TRUE(refused({{"a", kImageChunkBytes + 1, {1}}}));
    for (const char* name : {"", ".", "..", "../a", "a/b", "/etc/passwd", "a\nb"})
        EXPECT_TRUE(refused({{name, 0, {}}})) << name;
    EXPECT_TRUE(refused({{std::string(64, 'a'), 0, {}}}));
    auto none = read_checksums(here_);
    ASSERT_FALSE(none);
    expect_corrupt(std::unexpected(none.error()), {"is missing"});
}

}  // namespace
}  // namespace spore
