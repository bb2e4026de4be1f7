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
    };
    /// What has passed since the sandbox was made; `rx` is to the guest.
    struct Network {
        uint64_t rx_bytes = 0;                      ///< Received.
        uint64_t rx_packets = 0;                    ///< Received.
        uint64_t tx_bytes = 0;                      ///< Sent.
        uint64_t tx_packets = 0;                    ///< Sent.
        std::chrono::microseconds rx_throttled{0};  ///< Packets waited so long for a limit.
        std::chrono::microseconds tx_throttled{0};  ///< See `rx_throttled`.
    };
    /// UNTRUSTED: it is the guest that says so. A bound of 0: none.
    struct Guest {
        uint64_t processes = 0;         ///< Of commands.
        uint64_t processes_max = 0;     ///< Their bound.
        uint64_t memory_bytes = 0;      ///< Of commands; counted only where there is a bound.
        uint64_t memory_bytes_max = 0;  ///< Its bound.
        uint64_t root_bytes = 0;        ///< In use of its root file system.
        uint64_t root_bytes_max = 0;    ///< That file system's size.
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
    std::optional<Guest> guest = {};                ///< What its agent says.
    std::vector<Missing> not_enforced = {};         ///< Limits that this host does not hold.
    std::vector<Missing> not_known = {};            ///< What has no value here, and why.
};

}  // namespace v1
}  // namespace spore
