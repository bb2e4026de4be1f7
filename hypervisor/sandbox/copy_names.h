#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "hypervisor/base/limits.h"

namespace spore {

// Which files of a tree that is copied have been met before, under another name. A tree may have
// any number of them, and their names any length: above a bound they are forgotten, and their
// further names become files of their own.
class CopyNames {
  public:
    // The name that this file was met under first; nullptr: it is now, under this one.
    const std::string* find_or_add(uint64_t device, uint64_t inode, const std::string& name) {
        const auto found = names_.find({device, inode});
        if (found != names_.end())
            return &found->second;
        if (bytes_ + name.size() + kCostBytes > kBytesMax)
            return nullptr;
        bytes_ += name.size() + kCostBytes;
        names_.emplace(std::pair(device, inode), name);
        return nullptr;
    }

  private:
    static constexpr size_t kBytesMax = 16 * limits::kMiB;
    static constexpr size_t kCostBytes = 128;  // of an entry, beside its name

    std::map<std::pair<uint64_t, uint64_t>, std::string> names_;
    size_t bytes_ = 0;
};

}  // namespace spore
