#pragma once

#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// A control group (cgroup v2) of one process and all that comes of it, wherever that goes: a
// session or a parent of its own takes none out of it.
class ControlGroup {
  public:
    // Makes it below the directory `parent`.
    static Result<ControlGroup> create(int parent, const std::string& name);

    ControlGroup(ControlGroup&&) = default;
    // What is left of it afterwards is not waited for.
    ControlGroup& operator=(ControlGroup&&) = default;

    // For clone3(2) to start a process in it.
    int fd() const { return directory_.get(); }
    // Sends a signal to all that is in it and in groups below it. SIGKILL reaches also what is
    // being forked meanwhile.
    Status signal(int signal) const;
    // Removes it. False: something is in it still.
    bool remove();

  private:
    ControlGroup(int parent, std::string name, UniqueFd directory)
        : parent_(parent), name_(std::move(name)), directory_(std::move(directory)) {}

    int parent_;  // the agent's own, open as long as it runs
    std::string name_;
    UniqueFd directory_;
};

}  // namespace spore
