#pragma once

#include "hypervisor/sandbox/agent_copy.h"

namespace spore {

// What a copy has done so far, told to its caller. As long as `options`.
class CopyReport {
  public:
    explicit CopyReport(const CopyOptions& options) : options_(options) {}

    CopyCounts counts;

    void progress() const {
        if (options_.on_progress)
            options_.on_progress(counts);
    }
    Status skip(const std::string& path, const std::string& why) {
        ++counts.skipped;
        if (options_.on_skipped)
            options_.on_skipped(path, why);
        return {};
    }

  private:
    const CopyOptions& options_;
};

}  // namespace spore
