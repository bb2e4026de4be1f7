#pragma once

#include <string>

#include "hypervisor/sandbox/agent_files.h"
#include "hypervisor/sandbox/copy_names.h"
#include "hypervisor/sandbox/copy_report.h"

namespace spore {

// Names of one file that are copied into a guest become names of one file there, where its agent
// and its file system have such a thing.
class CopyLinks {
  public:
    // The name under which this file was copied; nullptr: it is now, as `target`.
    const std::string* find_or_add(uint64_t device, uint64_t inode, const std::string& target) {
        return names_.find_or_add(device, inode, target);
    }
    // Whether `target` is now another name of `first`; else it is to be copied, which is told.
    // Errors: those behind which nothing else would go either.
    static Result<bool> make(const AgentFiles& files, const std::string& target,
                             const std::string& first, CopyReport& report,
                             AgentFiles::Deadline deadline) {
        Status linked = files.make_hard_link(target, first, true, deadline);
        if (linked) {
            ++report.counts.links;
            return true;
        }
        switch (linked.error().code) {
            case Code::timeout:
            case Code::unavailable:
            case Code::corrupt:
                return std::unexpected(std::move(linked).error());
            default:
                report.separate(target, linked.error().message);
                return false;
        }
    }

  private:
    CopyNames names_;
};

}  // namespace spore
