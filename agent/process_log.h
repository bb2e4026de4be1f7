#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>

namespace spore {

// What a process has written, as far as it is kept: the oldest goes first. Memory is bounded,
// however small or large what it writes at once.
class ProcessLog {
  public:
    struct Record {
        uint64_t sequence = 0;  // 1, 2, …
        uint64_t offset = 0;    // bytes of all records before it
        int64_t time_ns = 0;
        uint8_t fd = 0;
        std::string bytes;
    };

    explicit ProcessLog(size_t bytes_max) : bytes_max_(bytes_max) {}

    // At most kLogRecordBytesMax bytes.
    void append(uint8_t fd, std::span<const std::byte> bytes, int64_t time_ns);

    // The first that is kept with that sequence or a later one.
    const Record* find(uint64_t sequence) const;
    // What the next one's will be.
    uint64_t next_sequence() const { return next_sequence_; }
    size_t bytes_max() const { return bytes_max_; }
    uint64_t bytes_kept() const { return bytes_ - dropped_; }
    uint64_t bytes_dropped() const { return dropped_; }

  private:
    size_t bytes_max_;
    size_t cost_ = 0;  // of what is kept
    uint64_t next_sequence_ = 1;
    uint64_t bytes_ = 0;  // of all there ever were
    uint64_t dropped_ = 0;
    std::deque<Record> records_;
};

// A place in a log, from where somebody reads on.
class LogCursor {
  public:
    explicit LogCursor(uint64_t from) : next_(from == 0 ? 1 : from) {
        if (next_ == 1)
            offset_ = 0;
    }

    uint64_t next() const { return next_; }
    // The next record, to be passed over by `pass`; nullptr: there is none yet.
    const ProcessLog::Record* peek(const ProcessLog& log) const { return log.find(next_); }
    // Returns how many bytes were to be read before this one and are no longer kept. Of records
    // that went before the first was read it is known only that they were there: one byte each.
    uint64_t pass(const ProcessLog::Record& record);

  private:
    uint64_t next_;
    std::optional<uint64_t> offset_;  // that the next record should have
};

}  // namespace spore
