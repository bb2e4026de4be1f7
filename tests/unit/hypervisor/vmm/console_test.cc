// What a guest that chatters for ever costs its host.

#include "hypervisor/vmm/console.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/base/console_limits.h"

namespace spore {
namespace {

class ConsoleTest : public testing::Test {
  protected:
    ConsoleTest() {
        EXPECT_GE(log_.get(), 0);
        ::unlink(path_);
    }
    // The log's descriptor is the console's afterwards; this one sees the same file.
    std::unique_ptr<Console> make() {
        Console::Output output;
        output.kind = Console::Kind::file;
        output.fd.reset(::fcntl(log_.get(), F_DUPFD_CLOEXEC, 3));
        auto console = Console::create(*loop_, std::move(output));
        EXPECT_TRUE(console.has_value());
        return std::move(*console);
    }
    uint64_t size() const {
        struct stat about = {};
        EXPECT_EQ(::fstat(log_.get(), &about), 0);
        return static_cast<uint64_t>(about.st_size);
    }

    char path_[32] = "/tmp/spore-console-XXXXXX";
    UniqueFd log_{::mkstemp(path_)};
    std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
};

TEST_F(ConsoleTest, ALogTakesItsBoundAndNoMore) {
    auto console = make();
    const std::vector<std::byte> noise(64 * limits::kKiB, std::byte{'n'});
    uint64_t written = 0;
    while (written < 3 * limits::kConsoleLogBytesMax) {
        console->write(noise);
        written += noise.size();
        const uint64_t due = std::min(written, limits::kConsoleLogBytesMax);
        ASSERT_TRUE(loop_->run_until([&] { return size() == due; }, std::chrono::seconds(60)))
            << size() << " of " << due;
    }
    console->finish();
    EXPECT_EQ(size(), limits::kConsoleLogBytesMax);
    EXPECT_EQ(console->taken_bytes(), limits::kConsoleLogBytesMax);
    EXPECT_EQ(console->bytes_max(), limits::kConsoleLogBytesMax);
    EXPECT_EQ(console->dropped_bytes(), written - limits::kConsoleLogBytesMax);
}

// Nothing of it is taken meanwhile.
TEST_F(ConsoleTest, WhatWaitsIsBoundedToo) {
    auto console = make();
    const std::vector<std::byte> noise(limits::kConsoleWaitingBytesMax + 1, std::byte{'n'});
    console->write(noise);
    console->write(noise);
    EXPECT_EQ(console->dropped_bytes(), noise.size() + 1);
    EXPECT_TRUE(loop_->run_until([&] { return size() == limits::kConsoleWaitingBytesMax; },
                                 std::chrono::seconds(60)))
        << size();
    console->finish();
}

}  // namespace
}  // namespace spore
