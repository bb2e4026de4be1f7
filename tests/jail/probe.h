#pragma once

// jail_probe ROLE ATTEMPT [NUMBER [CGROUP]]: a program started as spore-vmm is, that enters the
// jail as spore-vmm does and then misbehaves. Descriptor 3 is where it writes, 4 is an open
// directory and 5 a listening Unix socket, neither kept; 6 is /dev/kvm or /dev/null.

#include <cstdint>
#include <string>
#include <vector>

namespace spore::probe {

// How an attempt ended, as the exit status; killed for it: the status has the signal.
enum Outcome : int {
    kRefused = 0,     // the kernel said no by an error
    kSucceeded = 10,  // it went through
    kBroken = 20,     // the probe itself could not do its part
};

constexpr int kReportFd = 3;
constexpr int kDirectoryFd = 4;
constexpr int kSocketFd = 5;
constexpr int kKvmFd = 6;

struct Attempt {
    const char* name;
    int (*run)(uint64_t number);
};

// What must be refused even by namespaces and missing rights alone (attempts.cc).
const std::vector<Attempt>& attempts_without_filter();
// What only the filter refuses (attempts.cc).
const std::vector<Attempt>& attempts_against_filter();
// What must work (workload.cc): kSucceeded.
const std::vector<Attempt>& workloads();

void say(const std::string& text);

}  // namespace spore::probe
