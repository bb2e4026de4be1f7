#pragma once

/// @file
/// What a sandbox may use, what it does use, and what it may reach.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// How much may pass in a second; both hold. 0: no limit, and of a burst: one that suits.
struct Throughput {
    uint64_t bytes = 0;             ///< In a second.
    uint64_t operations = 0;        ///< In a second: requests of a disk, packets of a network.
    uint64_t bytes_burst = 0;       ///< That may pass at once after a while without any.
    uint64_t operations_burst = 0;  ///< See `bytes_burst`.
};

/// What a sandbox may use. What has no value is as it was, in a new sandbox: not limited. A value
/// of 0 takes the limit away.
struct Limits {
    std::optional<double> cpus = {};  ///< Processors, 0.05 or more: its vCPUs and its VMM together.
    /// Its share of the processors where all are wanted, 1 to 10000; without: 100.
    std::optional<uint32_t> cpu_weight = {};
    /// Of its guest, 64 MiB up to the template's size. Commands that need more are killed
    /// (Exit::oom_killed).
    std::optional<uint64_t> memory_bytes = {};
    std::optional<uint32_t> processes = {};  ///< Of its commands together, 8 or more.
    std::optional<Throughput> disk = {};     ///< Of its disk.
    std::optional<Throughput> network = {};  ///< Of its card, in each direction.
};

/// What a sandbox may reach; the host, other sandboxes, link-local and metadata addresses never.
struct NetworkAccess {
    /// How much.
    enum class Mode {
        none,    ///< Nothing.
        egress,  ///< What `allow` names; without any, every public address.
        open,    ///< Private addresses of the networks around the host as well.
    };
    Mode mode = Mode::none;  ///< How much.
    /// egress: "CIDR[:PORT]", "NAME[:PORT]" or "*.NAME[:PORT]".
    std::vector<std::string> allow = {};
    /// "CIDR[:PORT]" that stays closed, or a name among those allowed.
    std::vector<std::string> deny = {};
    std::string dns = {};  ///< The server that its questions go to; empty: the host's.
};

/// What a sandbox uses, and of what. No value: not known here, see `not_known`.
struct Usage {
    /// Something that this host does not hold, or that could not be found out.
    struct Missing {
        std::string name;  ///< "cpu_max", "guest".
        std::string why;   ///< For people.
    };
    /// What has passed since the sandbox was made.
    struct Disk {
        uint64_t read_bytes = 0;                 ///< Read.
        uint64_t reads = 0;                      ///< Requests to read.
        uint64_t written_bytes = 0;              ///< Written.
        uint64_t writes = 0;                     ///< Requests to write, flush or discard.
        std::chrono::microseconds throttled{0};  ///< Requests waited so long for a limit.
        /// What its device holds it to, without bursts; with `not_enforced`'s "io_max" not what was
        /// asked for.
        Throughput held_to = {};
    };
    /// What has passed since the sandbox was made; `rx` is to the guest.
    struct Network {
        uint64_t rx_bytes = 0;                      ///< Received.
        uint64_t rx_packets = 0;                    ///< Received.
        uint64_t tx_bytes = 0;                      ///< Sent.
        uint64_t tx_packets = 0;                    ///< Sent.
        std::chrono::microseconds rx_throttled{0};  ///< Packets waited so long for a limit.
        std::chrono::microseconds tx_throttled{0};  ///< See `rx_throttled`.
        Throughput held_to = {};  ///< What its card holds each direction to; see Disk::held_to.
    };
    /// Its serial console since the sandbox was made: what its kernel says.
    struct Console {
        uint64_t bytes = 0;          ///< Kept in its log on the host, or on the way there.
        uint64_t bytes_max = 0;      ///< Their bound.
        uint64_t dropped_bytes = 0;  ///< Beyond that: kept by nobody.
    };
    /// Its connections with the host: the agent's, forwarded ports, of whoever uses its socket.
    struct Connections {
        uint64_t open = 0;            ///< Now.
        uint64_t open_max = 0;        ///< Their bound.
        uint64_t buffered_bytes = 0;  ///< That wait for programs of the host that read slowly.
        uint64_t refused = 0;         ///< So far, at the bound or by the side that was called.
    };
    /// The host's process that runs its VM.
    struct Vmm {
        std::optional<uint64_t> open_files = {};      ///< Descriptors.
        std::optional<uint64_t> open_files_max = {};  ///< Their bound.
        std::optional<uint64_t> tasks = {};           ///< Threads.
        std::optional<uint64_t> tasks_max = {};       ///< Their bound; 0: none.
    };
    /// What the host runs for its network beside the VM, held to bounds of its own; with
    /// `not_enforced`'s "network_cgroup" to not all of them. A bound of 0: none.
    struct Helper {
        std::optional<std::chrono::microseconds> cpu = {};            ///< Processor time.
        std::optional<std::chrono::microseconds> cpu_throttled = {};  ///< It waited for its limit.
        std::optional<double> cpus_max = {};                          ///< Processors.
        std::optional<uint64_t> memory_bytes = {};                    ///< Now.
        std::optional<uint64_t> memory_bytes_max = {};                ///< Their bound.
        std::optional<uint64_t> oom_kills = {};  ///< Of its processes, at that bound.
        std::optional<uint64_t> tasks = {};      ///< Threads.
        std::optional<uint64_t> tasks_max = {};  ///< Their bound.
    };
    /// UNTRUSTED: it is the guest that says so. A bound of 0: none.
    struct Guest {
        uint64_t processes = 0;         ///< Of commands.
        uint64_t processes_max = 0;     ///< Their bound.
        uint64_t memory_bytes = 0;      ///< Of commands; counted only where there is a bound.
        uint64_t memory_bytes_max = 0;  ///< Its bound.
        uint64_t root_bytes = 0;        ///< In use of its root file system.
        uint64_t root_bytes_max = 0;    ///< That file system's size.
        /// Of the whole guest. From here on: no value if its agent is too old to tell.
        std::optional<uint64_t> open_files = {};
        std::optional<uint64_t> open_files_max = {};         ///< Their bound, the guest kernel's.
        std::optional<uint64_t> kept_processes = {};         ///< Of Sandbox::start, ended ones too.
        std::optional<uint64_t> kept_processes_max = {};     ///< Their bound.
        std::optional<uint64_t> output_bytes = {};           ///< Kept of those processes' output.
        std::optional<uint64_t> output_bytes_reserved = {};  ///< What that may grow to as it is.
        std::optional<uint64_t> output_bytes_max = {};       ///< The bound of what is reserved.
    };

    std::chrono::microseconds cpu{0};  ///< Processor time of the whole VM.
    std::optional<std::chrono::microseconds> cpu_throttled = {};  ///< It waited for its limit.
    uint64_t memory_bytes = 0;  ///< Its VM's, with what of the guest's memory is in use.
    std::optional<uint64_t> memory_bytes_max = {};  ///< What the host holds that to; 0: nothing.
    std::optional<uint64_t> oom_kills = {};         ///< VMs that the host killed at that bound.
    uint64_t disk_bytes = 0;                        ///< On the host, of what it has written.
    uint64_t disk_bytes_max = 0;                    ///< The size of the disk that the guest sees.
    std::optional<Disk> disk = {};                  ///< What has passed.
    std::optional<Network> network = {};            ///< What has passed; none without a card.
    std::optional<Console> console = {};            ///< What has passed.
    std::optional<Connections> connections = {};    ///< Over vsock.
    Vmm vmm = {};                                   ///< The process.
    /// passt, where it makes the network, and the keeper of its rules; none: they do not run.
    std::optional<Helper> passt = {};
    std::optional<Helper> resolver = {};     ///< Where names are allowed; none: it does not run.
    std::optional<Guest> guest = {};         ///< What its agent says.
    std::vector<Missing> not_enforced = {};  ///< Limits that this host does not hold.
    std::vector<Missing> not_known = {};     ///< What has no value here, and why.
};

}  // namespace v1
}  // namespace spore
