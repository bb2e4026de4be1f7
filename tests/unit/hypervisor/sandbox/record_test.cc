#include "hypervisor/sandbox/record.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class RecordTest : public ::testing::Test {
  protected:
    void write(std::string_view text) { std::ofstream(here_ / kRecordFile) << text; }

    const ScratchDirectory scratch_{"record"};
    const stdfs::path& here_ = scratch_.path();
};

SandboxRecord example() {
    SandboxRecord record;
    record.id = "box";
    record.template_name = "py";
    record.created_unix_ms = 1'700'000'000'123;
    record.process = {4711, 987'654'321};
    record.labels = {{"team", "a \"quoted\" one"}};
    record.environment = {{"PATH", "/bin"}, {"EMPTY", ""}};
    record.owner = "somebody";
    return record;
}

TEST_F(RecordTest, ComesBackAsItWasSaved) {
    ASSERT_TRUE(save_record(here_, example()));
    auto loaded = load_record(here_);
    ASSERT_TRUE(loaded) << loaded.error().message;
    ASSERT_TRUE(loaded->has_value());
    const SandboxRecord& record = **loaded;
    EXPECT_EQ(record.id, "box");
    EXPECT_EQ(record.template_name, "py");
    EXPECT_EQ(record.created_unix_ms, 1'700'000'000'123);
    EXPECT_EQ(record.process.pid, 4711);
    EXPECT_EQ(record.process.start_ticks, 987'654'321u);
    EXPECT_EQ(record.labels, example().labels);
    EXPECT_EQ(record.environment, example().environment);
    EXPECT_EQ(record.owner, "somebody");
    // Nothing else stays in the directory.
    EXPECT_EQ(std::distance(stdfs::directory_iterator(here_), stdfs::directory_iterator()), 1);
}

TEST_F(RecordTest, IsNothingWhereThereIsNone) {
    auto loaded = load_record(here_);
    ASSERT_TRUE(loaded);
    EXPECT_FALSE(loaded->has_value());
    auto nowhere = load_record(here_ / "no/such");
    ASSERT_TRUE(nowhere);
    EXPECT_FALSE(nowhere->has_value());
}

TEST_F(RecordTest, IsRefusedWhenItIsNotOne) {
    for (const char* text :
         {"", "no json", "[]", "{}", "{\"format\": \"1\"}", "{\"format\": 1, \"id\": \"box\"}"}) {
        write(text);
        auto loaded = load_record(here_);
        ASSERT_FALSE(loaded) << text;
        EXPECT_EQ(loaded.error().code, Code::corrupt) << text;
        EXPECT_NE(loaded.error().message.find(kRecordFile), std::string::npos);
    }
    write("{\"format\": 2}");
    EXPECT_EQ(load_record(here_).error().code, Code::version_mismatch);
}

TEST_F(RecordTest, IsNotReadThroughALink) {
    ASSERT_TRUE(save_record(here_, example()));
    stdfs::rename(here_ / kRecordFile, here_ / "elsewhere");
    stdfs::create_symlink("elsewhere", here_ / kRecordFile);
    EXPECT_FALSE(load_record(here_));
}

TEST_F(RecordTest, LockIsForOneAndGoesWithTheDirectory) {
    stdfs::create_directory(here_ / "old");
    auto lock = DirectoryLock::take(here_ / "old");
    ASSERT_TRUE(lock);
    EXPECT_FALSE(DirectoryLock::take(here_ / "old"));
    stdfs::rename(here_ / "old", here_ / "new");
    EXPECT_FALSE(DirectoryLock::take(here_ / "new"));
    lock.reset();
    EXPECT_TRUE(DirectoryLock::take(here_ / "new"));
    EXPECT_FALSE(DirectoryLock::take(here_ / "old"));  // there is none
}

// As a process has it that another thread starts, until it executes its program.
TEST_F(RecordTest, LockEndsThoughAChildHasTheDescriptorStill) {
    auto lock = DirectoryLock::take(here_);
    ASSERT_TRUE(lock);
    EXPECT_TRUE(lock->holds(here_));
    pid_t child = ::fork();
    if (child == 0) {
        ::pause();
        ::_exit(0);
    }
    lock.reset();
    EXPECT_TRUE(DirectoryLock::take(here_));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
}

TEST_F(RecordTest, LockDoesNotHoldWhatWasPutInItsPlace) {
    stdfs::create_directory(here_ / "box");
    auto lock = DirectoryLock::take(here_ / "box");
    ASSERT_TRUE(lock);
    stdfs::remove(here_ / "box");
    EXPECT_FALSE(lock->holds(here_ / "box"));
    stdfs::create_directory(here_ / "box");
    EXPECT_FALSE(lock->holds(here_ / "box"));
}

TEST_F(RecordTest, LockEndsWithItsHolder) {
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    pid_t holder = ::fork();
    if (holder == 0) {
        auto lock = DirectoryLock::take(here_);
        char told = lock ? 'y' : 'n';
        ::_exit(::write(pipe_ends[1], &told, 1) == 1 && ::pause() == 0 ? 0 : 1);
    }
    char told = 0;
    ASSERT_EQ(::read(pipe_ends[0], &told, 1), 1);
    EXPECT_EQ(told, 'y');
    EXPECT_FALSE(DirectoryLock::take(here_));
    ::kill(holder, SIGKILL);
    ::waitpid(holder, nullptr, 0);
    EXPECT_TRUE(DirectoryLock::take(here_));
    ::close(pipe_ends[0]);
    ::close(pipe_ends[1]);
}

}  // namespace
}  // namespace spore
