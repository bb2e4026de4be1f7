#include "hypervisor/api/usage_words.h"

namespace spore {

namespace {

using std::chrono::microseconds;

std::optional<microseconds> time_of(const std::optional<uint64_t>& us) {
    return us ? std::optional(microseconds(*us)) : std::nullopt;
}

// A device tells its rates, and no bursts.
Throughput throughput_of(const RateLimits& limits) {
    return {.bytes = limits.bytes.per_second, .operations = limits.operations.per_second};
}

Usage::Disk disk_of(const DiskStats& disk) {
    return {.read_bytes = disk.read_bytes,
            .reads = disk.reads,
            .written_bytes = disk.written_bytes,
            .writes = disk.writes,
            .throttled = microseconds(disk.throttled_us),
            .held_to = throughput_of(disk.held_to)};
}

Usage::Network network_of(const NetworkStats& network) {
    return {.rx_bytes = network.rx_bytes,
            .rx_packets = network.rx_packets,
            .tx_bytes = network.tx_bytes,
            .tx_packets = network.tx_packets,
            .rx_throttled = microseconds(network.rx_throttled_us),
            .tx_throttled = microseconds(network.tx_throttled_us),
            .held_to = throughput_of(network.held_to)};
}

std::optional<Usage::Helper> helper_of(const std::optional<CgroupUsage>& usage) {
    if (!usage)
        return std::nullopt;
    Usage::Helper helper = {.cpu = time_of(usage->cpu_us),
                            .cpu_throttled = time_of(usage->throttled_us),
                            .memory_bytes = usage->memory_bytes,
                            .memory_bytes_max = usage->memory_max,
                            .oom_kills = usage->oom_kills,
                            .tasks = usage->tasks,
                            .tasks_max = usage->tasks_max};
    constexpr double kMillis = 1000;
    if (usage->cpu_max_millis)
        helper.cpus_max = static_cast<double>(*usage->cpu_max_millis) / kMillis;
    return helper;
}

Usage::Guest guest_of(const AgentUsage& guest) {
    Usage::Guest usage = {.processes = guest.processes,
                          .processes_max = guest.processes_max,
                          .memory_bytes = guest.memory_bytes,
                          .memory_bytes_max = guest.memory_bytes_max,
                          .root_bytes = guest.root_bytes_used,
                          .root_bytes_max = guest.root_bytes};
    // An agent of an earlier Spore tells no bound of what it does not know.
    if (guest.open_files_max != 0) {
        usage.open_files = guest.open_files;
        usage.open_files_max = guest.open_files_max;
    }
    if (guest.kept_processes_max != 0) {
        usage.kept_processes = guest.kept_processes;
        usage.kept_processes_max = guest.kept_processes_max;
    }
    if (guest.output_bytes_max != 0) {
        usage.output_bytes = guest.output_bytes;
        usage.output_bytes_reserved = guest.output_bytes_reserved;
        usage.output_bytes_max = guest.output_bytes_max;
    }
    return usage;
}

}  // namespace

std::vector<Usage::Missing> missing_of(const std::vector<Unenforced>& all) {
    std::vector<Usage::Missing> missing;
    for (const Unenforced& each : all)
        missing.push_back({each.name, each.why});
    return missing;
}

Usage usage_of(const SandboxStats& stats) {
    Usage usage = {.cpu = microseconds(stats.cpu_us),
                   .cpu_throttled = time_of(stats.cpu_throttled_us),
                   .memory_bytes = stats.memory_bytes,
                   .memory_bytes_max = stats.memory_max,
                   .oom_kills = stats.oom_kills,
                   .disk_bytes = stats.disk_bytes,
                   .disk_bytes_max = stats.disk_max,
                   .vmm = {.open_files = stats.process.open_files,
                           .open_files_max = stats.process.open_files_max,
                           .tasks = stats.process.tasks,
                           .tasks_max = stats.process.tasks_max},
                   .passt = helper_of(stats.passt),
                   .resolver = helper_of(stats.resolver),
                   .not_enforced = missing_of(stats.unenforced),
                   .not_known = missing_of(stats.why_not)};
    if (stats.disk)
        usage.disk = disk_of(*stats.disk);
    if (stats.network)
        usage.network = network_of(*stats.network);
    if (stats.console)
        usage.console = {.bytes = stats.console->bytes,
                         .bytes_max = stats.console->bytes_max,
                         .dropped_bytes = stats.console->dropped_bytes};
    if (stats.vsock)
        usage.connections = {.open = stats.vsock->connections,
                             .open_max = stats.vsock->connections_max,
                             .buffered_bytes = stats.vsock->buffered_bytes,
                             .refused = stats.vsock->refused};
    if (stats.guest)
        usage.guest = guest_of(*stats.guest);
    return usage;
}

}  // namespace spore
