#pragma once

// A command's output in memory, bounded.

#include <string>

#include "hypervisor/sandbox/agent_client.h"

namespace spore {

// What a stream wrote: the first of it, and how much there was.
struct CapturedOutput {
    std::string bytes;
    uint64_t total = 0;
    bool truncated() const { return total > bytes.size(); }
};

// Keeps at most `bytes_max` of stdout and of stderr each; what is above it is counted and dropped,
// so that the command goes on. Must outlive the `exec` that its streams are given to.
class ExecCapture {
  public:
    static constexpr size_t kBytesMax = 16 * limits::kMiB;

    explicit ExecCapture(size_t bytes_max = kBytesMax) : bytes_max_(bytes_max) {}
    ExecCapture(const ExecCapture&) = delete;
    ExecCapture& operator=(const ExecCapture&) = delete;

    ExecStreams streams() { return {.on_stdout = sink(out_), .on_stderr = sink(err_)}; }
    const CapturedOutput& out() const { return out_; }
    const CapturedOutput& err() const { return err_; }

  private:
    ExecStreams::Sink sink(CapturedOutput& output) {
        return [this, &output](std::span<const std::byte> more) -> Status {
            output.total += more.size();
            const size_t room = bytes_max_ - output.bytes.size();
            output.bytes.append(reinterpret_cast<const char*>(more.data()),
                                std::min(room, more.size()));
            return {};
        };
    }

    size_t bytes_max_;
    CapturedOutput out_, err_;
};

}  // namespace spore
