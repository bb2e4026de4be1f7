#pragma once

// Going through a tree of directories in small steps, however deep and wide it is, and whatever
// happens to it meanwhile.

#include <dirent.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// Some entries of a directory, at most limits::kFrameItemsMax, without "." and "..".
class DirectoryBatch {
  public:
    struct Entry {
        const char* name;
        uint8_t type;      // DT_…; DT_UNKNOWN where the file system does not say
        int64_t position;  // of the entry after it, for lseek(2)
    };

    // The next ones; `ended()` if there is none. Errors: errno is set.
    bool fill(int directory);
    bool ended() const { return size_ == 0; }
    // nullptr after the last of them.
    const Entry* next();

  private:
    // An entry takes 24 bytes or more (getdents64(2)).
    alignas(8) std::array<char, size_t{limits::kFrameItemsMax} * 24> bytes_;
    size_t size_ = 0;
    size_t at_ = 0;
    Entry entry_ = {};
};

// The directories from one down to that where the work is. Only the lowest few are open; one above
// is found again through "..", and known by its inode, so that nobody who moves directories about
// leads the work elsewhere. Symbolic links are never followed.
class DirectoryStack {
  public:
    // Enters `name` of the directory `from`, or of the lowest one, where reading goes on at
    // `position` later. Errors: the system call's; resource_exhausted (too deep).
    Status enter(int from, const char* name);
    Status enter(UniqueFd directory);
    Status descend(const char* name, int64_t position);
    // Back to the directory above, if there is one. Errors: unavailable (it has been moved).
    Status ascend();

    bool empty() const { return levels_.empty(); }
    size_t depth() const { return levels_.size(); }
    int fd() const { return levels_.back().fd.get(); }
    // As it was entered.
    const std::string& name() const { return levels_.back().name; }

  private:
    struct Level {
        UniqueFd fd;
        dev_t device = 0;
        ino_t inode = 0;
        int64_t position = 0;
        std::string name;
    };

    Status push(UniqueFd fd, const char* name);

    std::vector<Level> levels_;
};

}  // namespace spore
