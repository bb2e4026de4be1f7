#pragma once

// spore-floor in a process of its own, asked for one round at a time.

#include <vector>

#include "bench/child.h"

namespace spore::bench {

class Floor {
  public:
    static Result<Floor> start(const std::string& program, unsigned memory_mib);
    // Makes a VM up to its first exit: µs. It is torn down before this returns.
    Result<double> round();

  private:
    explicit Floor(Child child) : child_(std::move(child)) {}
    Child child_;
};

// `count` VMs at once, each in a process of its own: µs until the last one's first exit.
Result<double> floor_at_once(const std::string& program, unsigned count);

}  // namespace spore::bench
