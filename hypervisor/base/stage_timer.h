#pragma once

// Where the time of a restore goes: a note of the clock at the end of each stage. Off by default;
// what it costs then is one comparison a stage.

#include <cstdint>
#include <mutex>
#include <vector>

#include "hypervisor/base/clock.h"

namespace spore {

// The control socket's status has the stages as counters `stage.<name>`, each the clock at its end;
// `bench/run restore` makes the differences of many clones a table. Any thread.
class StageTimer {
  public:
    struct Stage {
        const char* name;
        uint64_t end_ns;
    };
    static constexpr size_t kStagesMax = 24;

    void start() { on_ = true; }
    // The stage `name` (a literal) ends here.
    void mark(const char* name) {
        if (!on_)
            return;
        std::lock_guard lock(mutex_);
        if (stages_.size() < kStagesMax)
            stages_.push_back({name, monotonic_ns()});
    }
    std::vector<Stage> stages() const {
        std::lock_guard lock(mutex_);
        return stages_;
    }

  private:
    bool on_ = false;
    mutable std::mutex mutex_;
    std::vector<Stage> stages_;  // guarded by mutex_
};

}  // namespace spore
