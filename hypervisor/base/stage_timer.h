#pragma once

// Where the time of a restore goes: a note of the clock at the end of each stage. Off by default;
// what it costs then is one comparison a stage.

#include <array>
#include <cstdint>
#include <span>

#include "hypervisor/base/clock.h"

namespace spore {

// The control socket's status has the stages as counters `stage.<name>`, each the clock at its end;
// `bench/run restore` makes the differences of many clones a table. One thread.
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
        if (on_ && count_ < kStagesMax)
            stages_[count_++] = {name, monotonic_ns()};
    }
    std::span<const Stage> stages() const { return std::span(stages_).first(count_); }

  private:
    bool on_ = false;
    size_t count_ = 0;
    std::array<Stage, kStagesMax> stages_ = {};
};

}  // namespace spore
