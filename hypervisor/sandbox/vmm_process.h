#pragma once

// Starting spore-vmm, knowing it again, ending it.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/sandbox/cgroup_spot.h"

namespace spore {

// A process and when it started: a PID alone may be somebody else's by now.
struct ProcessIdentity {
    int pid = 0;
    uint64_t start_ticks = 0;  // /proc/PID/stat, field 22
};

// The identity of the running process `pid`; not_found if there is none.
Result<ProcessIdentity> identify_process(int pid);
bool is_alive(const ProcessIdentity& process);

// Starts `program` with `arguments` (its own name first), in a session of its own with `directory`
// as its working directory, standard output and error appended to `log`, and no other descriptor
// but a ready pipe, number 3, and `extra`, if there is one, as number 4; waits until it says that
// it is ready. It starts in `spot`'s cgroup. Errors: what it says; timeout; unavailable if it dies
// without a word.
Result<ProcessIdentity> start_process(const std::filesystem::path& program,
                                      const std::vector<std::string>& arguments,
                                      const std::filesystem::path& directory,
                                      const std::filesystem::path& log,
                                      std::chrono::steady_clock::time_point deadline,
                                      int extra = -1, CgroupSpot* spot = nullptr);
// The same with a spore-vmm: ready is when its machine runs. It tells what `spot` says, if jailed.
Result<ProcessIdentity> start_vmm(const std::filesystem::path& program,
                                  const std::vector<std::string>& arguments,
                                  const std::filesystem::path& directory,
                                  const std::filesystem::path& log,
                                  std::chrono::steady_clock::time_point deadline, int extra = -1,
                                  CgroupSpot* spot = nullptr);

// Waits for the line on a ready pipe (hypervisor/base/tell_ready.h). Errors: what the line
// says; timeout; unavailable if the pipe ends without one.
Status wait_until_ready(int pipe, std::chrono::steady_clock::time_point deadline);

// SIGKILLs it if it is still the same process, and waits until it is gone (not only our child).
Status kill_process(const ProcessIdentity& process, std::chrono::steady_clock::time_point deadline);
// Sends a signal, if it is still the same process, and does not wait.
Status signal_process(const ProcessIdentity& process, int signal);
// The same with another signal, and waits as above.
Status end_process(const ProcessIdentity& process, int signal,
                   std::chrono::steady_clock::time_point deadline);

}  // namespace spore
