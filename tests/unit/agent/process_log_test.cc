// What is kept of a process's output.

#include "agent/process_log.h"

#include <gtest/gtest.h>

#include "hypervisor/base/agent_limits.h"

namespace spore {
namespace {

class Log : public testing::Test {
  protected:
    void write(const std::string& text, uint8_t fd = 1) {
        log.append(fd, std::as_bytes(std::span(text.data(), text.size())), ++time);
    }
    ProcessLog log{limits::kProcessLogBytesMin};
    int64_t time = 0;
};

TEST_F(Log, NumbersWhatItIsGiven) {
    write("one");
    write("two", 2);
    const auto* record = log.find(0);
    ASSERT_NE(record, nullptr);
    EXPECT_EQ(record->sequence, 1u);
    EXPECT_EQ(record->bytes, "one");
    record = log.find(2);
    ASSERT_NE(record, nullptr);
    EXPECT_EQ(record->fd, 2);
    EXPECT_EQ(record->time_ns, 2);
    EXPECT_EQ(log.find(3), nullptr);
    EXPECT_EQ(log.next_sequence(), 3u);
    EXPECT_EQ(log.bytes_kept(), 6u);
}

TEST_F(Log, DropsTheOldestAndCountsIt) {
    const std::string chunk(limits::kLogRecordBytesMax, 'x');
    for (int i = 0; i < 10; ++i)
        write(chunk);
    EXPECT_LE(log.bytes_kept(), limits::kProcessLogBytesMin);
    EXPECT_GE(log.bytes_kept(), limits::kProcessLogBytesMin - 2 * chunk.size());
    EXPECT_EQ(log.bytes_kept() + log.bytes_dropped(), 10 * chunk.size());
    EXPECT_EQ(log.find(1)->sequence, 8u);
    EXPECT_EQ(log.find(10)->sequence, 10u);
}

TEST_F(Log, IsBoundedForSingleBytesToo) {
    size_t count = 0;
    for (int i = 0; i < 100'000; ++i)
        write("x");
    for (uint64_t at = 1; log.find(at) != nullptr; at = log.find(at)->sequence + 1)
        ++count;
    EXPECT_LE(count * (sizeof(ProcessLog::Record) + 1), limits::kProcessLogBytesMin);
    EXPECT_EQ(log.bytes_kept(), count);
    EXPECT_EQ(log.bytes_dropped(), 100'000 - count);
}

TEST_F(Log, TellsAReaderWhatItHasMissed) {
    write("seen");
    LogCursor cursor(1);
    EXPECT_EQ(cursor.pass(*cursor.peek(log)), 0u);
    EXPECT_EQ(cursor.peek(log), nullptr);
    const std::string chunk(limits::kLogRecordBytesMax, 'x');
    for (int i = 0; i < 10; ++i)
        write(chunk);
    const auto* record = cursor.peek(log);
    EXPECT_EQ(cursor.pass(*record), (record->sequence - 2) * chunk.size());
    EXPECT_EQ(cursor.pass(*cursor.peek(log)), 0u);

    LogCursor late(1);
    EXPECT_EQ(late.pass(*late.peek(log)), log.bytes_dropped());
    LogCursor later(5);  // it is known that there were records, and not how long they were
    EXPECT_EQ(later.pass(*later.peek(log)), log.find(1)->sequence - 5);
    LogCursor ahead(99);
    EXPECT_EQ(ahead.peek(log), nullptr);
}

}  // namespace
}  // namespace spore
