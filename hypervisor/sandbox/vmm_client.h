#pragma once

// The control socket of a spore-vmm, from outside (schema/control.fbs).

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hypervisor/base/connect_unix.h"
#include "hypervisor/base/rate.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/jail/jail.h"
#include "schema/go.h"

namespace spore {

struct VmmStatus {
    std::string state;  // booting, running, paused, ended
    uint64_t memory_bytes = 0;
    uint32_t cpus = 0;
    int pid = 0;
    std::vector<std::pair<std::string, uint64_t>> counters;
    JailReport jail;  // no items: it is not jailed
};

// A vsock connection of the host's, by its two ports.
struct VsockCarry {
    uint32_t host_port = 0;
    uint32_t guest_port = 0;
};

// What its devices may do from now on; nothing: stays as it is.
struct VmmLimits {
    std::optional<RateLimits> disk, network;
    uint64_t disk_bytes = 0;  // no less than it has; 0: stays
};

// Lets the clone that waits in `directory` run, within the limits that `go` has. Its vCPU's thread
// reads the word itself, so nothing but that thread's waking up is between. Errors: unavailable (it
// has died).
Status give_go(const std::filesystem::path& directory, const CloneGo& go = {});

// One request at a time. Errors of every call: what the VMM answers; unavailable when it is gone;
// timeout at the deadline.
class VmmClient {
  public:
    using Deadline = std::chrono::steady_clock::time_point;

    // To the socket "control" in a sandbox's run directory.
    static Result<VmmClient> connect(const std::filesystem::path& directory);

    // The PID of the process that listens, as this one sees it.
    Result<int> peer() const;
    Result<VmmStatus> status(Deadline deadline);
    Status pause(Deadline deadline);
    Status resume(Deadline deadline);
    // The two halves of it: nothing else may be asked between them.
    Status begin_resume();
    Status finish_resume(Deadline deadline);
    // `carry`: the vsock connection that stands in every machine restored from it (none: host port
    // 0). Errors also: not_found (no such connection), unavailable (it is half closed or busy).
    Status snapshot(const std::filesystem::path& directory, const VsockCarry& carry,
                    Deadline deadline);
    Status set_limits(const VmmLimits& limits, Deadline deadline);
    // The two halves of it: nothing else may be asked between them.
    Status begin_set_limits(const VmmLimits& limits);
    Status finish_set_limits(Deadline deadline) { return receive_done(deadline); }
    Status quit(Deadline deadline);

  private:
    explicit VmmClient(UniqueFd socket) : socket_(std::move(socket)) {}
    Status send_packet(const void* packet, size_t size);
    Result<std::vector<std::byte>> receive_packet(Deadline deadline);
    Status receive_done(Deadline deadline);
    Result<std::vector<std::byte>> exchange(const void* packet, size_t size, Deadline deadline);
    Status expect_done(const void* packet, size_t size, Deadline deadline);
    UniqueFd socket_;
};

}  // namespace spore
