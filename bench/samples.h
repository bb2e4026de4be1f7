#pragma once

// What was measured: every sample of every figure, by name, and the file that bench/run reads.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore::bench {

class Samples {
  public:
    // `name` says what and how, "cold/128"; in the order in which they were taken. In µs unless the
    // name ends in another unit.
    void add(const std::string& name, double value) { values_[name].push_back(value); }
    // Why something was not measured.
    void skip(const std::string& name, const std::string& why) { skipped_[name] = why; }
    size_t count(const std::string& name) const;
    Status write(const std::filesystem::path& path) const;

  private:
    std::map<std::string, std::vector<double>> values_;
    std::map<std::string, std::string> skipped_;
};

// The process's.
Samples& samples();

}  // namespace spore::bench
