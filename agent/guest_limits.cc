// GuestSystem: what commands may have, by the control group that they are in.

#include <sys/statvfs.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "agent/file.h"
#include "agent/guest_system.h"

namespace spore {

namespace {

std::string setting(const char* name) {
    return std::string(kCommandCgroup) + "/" + name;
}

// "max" and what is not there are 0.
uint64_t number_in(const char* name) {
    return std::strtoull(read_file(setting(name)).value_or(std::string()).c_str(), nullptr, 10);
}

// "USED 0 MOST"; of a guest without /proc nothing is told.
void read_open_files(GuestUsage& usage) {
    const std::string text = read_file("/proc/sys/fs/file-nr").value_or(std::string());
    unsigned long long used = 0, most = 0;
    if (std::sscanf(text.c_str(), "%llu %*u %llu", &used, &most) != 2)
        return;
    usage.open_files = used;
    usage.open_files_max = most;
}

}  // namespace

Status GuestSystem::count_memory() {
    auto counted = write_setting(kCgroupControllers, "+memory");
    if (!counted)
        return fail(Code::host_unsupported, "memory limit: this guest's kernel cannot count it: " +
                                                counted.error().message);
    counts_memory_ = true;
    return {};
}

Status GuestSystem::limit_commands(const CommandLimits& limits) {
    if (limits.memory_bytes != 0 && !counts_memory_)
        TRY(count_memory());
    if (counts_memory_)
        TRY(write_setting(setting("memory.max"), limits.memory_bytes == 0
                                                     ? std::string("max")
                                                     : std::to_string(limits.memory_bytes)));
    const uint32_t processes =
        limits.processes == 0 ? processes_most_ : std::min(limits.processes, processes_most_);
    return write_setting(setting("pids.max"), std::to_string(processes));
}

Result<GuestUsage> GuestSystem::usage() {
    GuestUsage usage;
    usage.used.processes = static_cast<uint32_t>(number_in("pids.current"));
    usage.bound.processes = static_cast<uint32_t>(number_in("pids.max"));
    usage.used.memory_bytes = number_in("memory.current");
    usage.bound.memory_bytes = number_in("memory.max");
    struct statvfs root = {};
    if (::statvfs("/", &root) != 0)
        return fail_errno("statvfs of /");
    usage.root_bytes = root.f_blocks * root.f_frsize;
    usage.root_bytes_used = (root.f_blocks - root.f_bfree) * root.f_frsize;
    read_open_files(usage);
    return usage;
}

}  // namespace spore
