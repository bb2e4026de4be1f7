#pragma once

// Starting spore-vmm, knowing it again, ending it.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

// A process and when it started: a PID alone may be somebody else's by now.
struct ProcessIdentity {
    int pid = 0;
    uint64_t start_ticks = 0;  // /proc/PID/stat, field 22
};

// The identity of the running process `pid`; not_found if there is none.
Result<ProcessIdentity> identify_process(int pid);
bool is_alive(const ProcessIdentity& process);

// Starts spore-vmm with `arguments`, in a session of its own with `directory` as its working
// directory, standard output and error appended to `log`, no other descriptor; waits until it says
// that its machine runs. Errors: what the VMM says; timeout; unavailable if it dies without a word.
Result<ProcessIdentity> start_vmm(const std::filesystem::path& program,
                                  const std::vector<std::string>& arguments,
                                  const std::filesystem::path& directory,
                                  const std::filesystem::path& log,
                                  std::chrono::steady_clock::time_point deadline);

// SIGKILLs it if it is still the same process, and waits until it is gone (not only our child).
Status kill_process(const ProcessIdentity& process, std::chrono::steady_clock::time_point deadline);

}  // namespace spore
