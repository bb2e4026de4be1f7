#include "agent/process_log.h"

#include <cassert>

#include "hypervisor/base/agent_limits.h"

namespace spore {

void ProcessLog::append(uint8_t fd, std::span<const std::byte> bytes, int64_t time_ns) {
    assert(bytes.size() <= limits::kLogRecordBytesMax);
    records_.push_back(
        {.sequence = next_sequence_++,
         .offset = bytes_,
         .time_ns = time_ns,
         .fd = fd,
         .bytes = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
    bytes_ += bytes.size();
    cost_ += bytes.size() + limits::kLogRecordCostBytes;
    while (cost_ > bytes_max_) {
        const size_t size = records_.front().bytes.size();
        cost_ -= size + limits::kLogRecordCostBytes;
        dropped_ += size;
        records_.pop_front();
    }
}

const ProcessLog::Record* ProcessLog::find(uint64_t sequence) const {
    if (records_.empty() || sequence >= next_sequence_)
        return nullptr;
    const uint64_t first = records_.front().sequence;
    return &records_[sequence <= first ? 0 : sequence - first];
}

uint64_t LogCursor::pass(const ProcessLog::Record& record) {
    const uint64_t dropped = offset_ ? record.offset - *offset_ : record.sequence - next_;
    next_ = record.sequence + 1;
    offset_ = record.offset + record.bytes.size();
    return dropped;
}

}  // namespace spore
