#pragma once

#include <unistd.h>

#include <cerrno>
#include <span>

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
    // read(2) of bytes on their way, counted. Errors: the system call's, of `what`.
    Result<size_t> read(int fd, std::span<std::byte> room, const std::string& what) {
        ssize_t count = -1;
        do {
            count = ::read(fd, room.data(), room.size());
        } while (count < 0 && errno == EINTR);
        if (count < 0)
            return fail_errno(what);
        counts.bytes += static_cast<size_t>(count);
        progress();
        return static_cast<size_t>(count);
    }
    Status skip(const std::string& path, const std::string& why) {
        ++counts.skipped;
        if (options_.on_skipped)
            options_.on_skipped(path, why);
        return {};
    }

    // A further name of a file becomes one of its own.
    void separate(const std::string& path, const std::string& why) {
        ++counts.separate;
        if (options_.on_separate)
            options_.on_separate(path, why);
    }

  private:
    const CopyOptions& options_;
};

}  // namespace spore
