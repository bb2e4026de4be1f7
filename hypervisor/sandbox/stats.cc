#include "hypervisor/sandbox/stats.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>

#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/cgroup_spot.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/sandbox_quotas.h"
#include "hypervisor/snapshot/state.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

// Of a process, where no cgroup counts them. Threads that have ended are in it.
void read_process(int pid, SandboxStats& stats, bool cpu, bool memory) {
    auto open = [pid](const char* name) {
        std::string path = "/proc/" + std::to_string(pid) + "/" + name;
        return std::unique_ptr<FILE, int (*)(FILE*)>(std::fopen(path.c_str(), "re"), std::fclose);
    };
    unsigned long user = 0, system = 0, pages = 0;
    if (auto file = cpu ? open("stat") : std::unique_ptr<FILE, int (*)(FILE*)>(nullptr, nullptr);
        file &&
        std::fscanf(file.get(), "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                    &user, &system) == 2)
        stats.cpu_us = (user + system) * 1'000'000 / static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
    if (auto file =
            memory ? open("statm") : std::unique_ptr<FILE, int (*)(FILE*)>(nullptr, nullptr);
        file && std::fscanf(file.get(), "%*u %lu", &pages) == 1)
        stats.memory_bytes = pages * static_cast<uint64_t>(::sysconf(_SC_PAGE_SIZE));
}

// Whose /proc is not ours to read is told by an error of `fd`.
void read_descriptors(int pid, SandboxStats& stats) {
    std::string process = "/proc/" + std::to_string(pid);
    std::error_code error;
    uint64_t open = 0;
    stdfs::directory_iterator each(process + "/fd", error);
    for (; !error && each != stdfs::directory_iterator(); each.increment(error))
        open++;
    if (error)
        stats.why_not.push_back({"open_files", process + "/fd: " + error.message()});
    else
        stats.process.open_files = open;
    std::ifstream limits(process + "/limits");
    for (std::string line; std::getline(limits, line);) {
        unsigned long long most = 0;
        if (std::sscanf(line.c_str(), "Max open files %llu", &most) == 1)
            stats.process.open_files_max = most;
    }
}

void read_disk(const stdfs::path& directory, SandboxStats& stats) {
    struct stat status = {};
    if (::stat((directory / disk_layer_file(0)).c_str(), &status) != 0)
        return;
    stats.disk_bytes = static_cast<uint64_t>(status.st_blocks) * 512;
    stats.disk_max = static_cast<uint64_t>(status.st_size);
}

void take_counters(const VmmStatus& status, SandboxStats& stats) {
    std::map<std::string, uint64_t> counters(status.counters.begin(), status.counters.end());
    auto at = [&](const std::string& name) {
        auto found = counters.find(name);
        return found == counters.end() ? 0 : found->second;
    };
    auto rates = [&](const std::string& name) {
        return RateLimits{{at(name + ".bytes_max"), 0}, {at(name + ".operations_max"), 0}};
    };
    constexpr uint64_t kNsPerUs = 1000;
    if (counters.contains("block0.reads")) {
        DiskStats& disk = stats.disk.emplace();
        disk.read_bytes = at("block0.read_bytes");
        disk.reads = at("block0.reads");
        disk.written_bytes = at("block0.written_bytes");
        disk.writes = at("block0.writes") + at("block0.flushes") + at("block0.discards");
        disk.throttled_us = at("block0.throttled_ns") / kNsPerUs;
        disk.held_to = rates("block0");
    }
    if (counters.contains("net0.rx_frames")) {
        NetworkStats& network = stats.network.emplace();
        network.rx_bytes = at("net0.rx_bytes");
        network.rx_packets = at("net0.rx_frames");
        network.rx_throttled_us = at("net0.rx.throttled_ns") / kNsPerUs;
        network.tx_bytes = at("net0.tx_bytes");
        network.tx_packets = at("net0.tx_frames");
        network.tx_throttled_us = at("net0.tx.throttled_ns") / kNsPerUs;
        network.held_to = rates("net0.tx");
    }
    if (counters.contains("console.bytes"))
        stats.console = {at("console.bytes"), at("console.bytes_max"), at("console.dropped_bytes")};
    if (counters.contains("vsock.connections"))
        stats.vsock = {at("vsock.connections"), at("vsock.connections_max"),
                       at("vsock.buffered_bytes"), at("vsock.refused")};
}

void read_helpers(const stdfs::path& directory, SandboxStats& stats) {
    for (Helper helper : network_helpers(directory)) {
        bool is_passt = helper == Helper::passt;
        (is_passt ? stats.passt : stats.resolver) = helper_usage(directory, helper);
        if (auto why = why_helper_is_free(directory, helper); !why.empty())
            stats.why_not.push_back({is_passt ? "passt" : "resolver", why});
    }
}

// Which of its quotas its cgroup does not have.
std::vector<Unenforced> unenforced_of(const Quotas& quotas, const CgroupUsage& usage,
                                      bool has_cgroup) {
    std::vector<Unenforced> missing;
    std::string why = has_cgroup ? "its cgroup has no such controller" : "it has no cgroup";
    if (quotas.cpu_max_millis != 0 && usage.cpu_max_millis != quotas.cpu_max_millis)
        missing.push_back({"cpu_max", usage.cpu_max_millis ? "it was changed from outside" : why});
    if (quotas.cpu_weight != 0 && !usage.cpu_max_millis)
        missing.push_back({"cpu_weight", why});
    return missing;
}

// Which rates its devices have not.
void compare_rates(const Quotas& quotas, SandboxStats& stats) {
    auto same = [](const RateLimits& one, const RateLimits& other) {
        return one.bytes.per_second == other.bytes.per_second &&
               one.operations.per_second == other.operations.per_second;
    };
    constexpr const char* kWhy = "its device has another limit, or none";
    if (stats.disk && !same(quotas.io, stats.disk->held_to))
        stats.unenforced.push_back({"io_max", kWhy});
    if (stats.network && !same(quotas.net, stats.network->held_to))
        stats.unenforced.push_back({"net_max", kWhy});
}

}  // namespace

Result<SandboxStats> sandbox_stats(const Home& home, const SandboxInfo& info,
                                   std::chrono::milliseconds limit) {
    if (!info.alive)
        return fail(Code::unavailable, "sandbox '" + info.record.id + "': its VM has ended");
    auto deadline = std::chrono::steady_clock::now() + limit;
    stdfs::path directory = run_directory(home, info.record.id);
    SandboxStats stats;
    stats.info = info;
    stdfs::path cgroup = cgroup_of_directory(directory);
    CgroupUsage usage = read_cgroup_usage(cgroup);
    stats.cpu_us = usage.cpu_us.value_or(0);
    stats.cpu_throttled_us = usage.throttled_us;
    stats.memory_bytes = usage.memory_bytes.value_or(0);
    stats.memory_max = usage.memory_max;
    stats.oom_kills = usage.oom_kills;
    read_process(info.record.process.pid, stats, !usage.cpu_us, !usage.memory_bytes);
    stats.unenforced = unenforced_of(info.record.quotas, usage, !cgroup.empty());
    stats.process.tasks = usage.tasks;
    stats.process.tasks_max = usage.tasks_max;
    read_descriptors(info.record.process.pid, stats);
    if (info.record.network) {
        std::ranges::copy(network_lacks(directory), std::back_inserter(stats.unenforced));
        read_helpers(directory, stats);
    }
    read_disk(directory, stats);

    auto vmm = VmmClient::connect(directory);
    auto status = vmm ? vmm->status(deadline) : std::unexpected(vmm.error());
    if (status) {
        take_counters(*status, stats);
        compare_rates(info.record.quotas, stats);
    } else {
        stats.why_not.push_back({"disk, network", status.error().message});
    }
    auto agent = connect_agent(directory, deadline);
    auto guest = agent ? agent->usage(deadline) : std::unexpected(agent.error());
    if (guest)
        stats.guest = *guest;
    else
        stats.why_not.push_back({"guest", guest.error().message});
    return stats;
}

}  // namespace spore
