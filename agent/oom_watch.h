#pragma once

#include <sys/types.h>

#include <deque>
#include <set>
#include <string_view>

#include "agent/poller.h"

namespace spore {

// Who has lost a process to the kernel's OOM killer, by what the kernel's log says.
//
// A process counts for the session (setsid(2)) that it is in, and so for the command or the
// session's shell that leads it. Where it is gone before the log is read, it counts for the first
// that ends as one does whose process was killed: by SIGKILL, or with status 137.
class OomWatch {
  public:
    // Takes the log (/dev/kmsg): a record for each read, which does not block.
    void open(Poller& poller, UniqueFd log);
    // Reads what there is, or the first of much. To be called before a child is reaped: until then
    // it can be looked up.
    void read();
    // Whether it has lost one since the last call. `wait_status` is how it has ended.
    bool take(pid_t session, int wait_status);

  private:
    void take_record(std::string_view record);

    Watch log_;
    std::set<pid_t> sessions_;
    std::deque<pid_t> unplaced_;
};

}  // namespace spore
