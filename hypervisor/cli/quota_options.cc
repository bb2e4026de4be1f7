#include "hypervisor/cli/quota_options.h"

#include <cstdio>

namespace spore::cli {

void add_quota_options(CLI::App& command, QuotaWords& words) {
    constexpr const char* kGroup = "Limits (each may be 'none')";
    auto add = [&](const char* name, std::optional<std::string>& word, const char* help) {
        command.add_option(name, word, help)->group(kGroup);
    };
    add("--cpu-max", words.cpu_max, "processors, such as 0.5: vCPUs and VMM together");
    add("--cpu-weight", words.cpu_weight,
        "share of the processors where all are wanted, 1 to 10000 (100)");
    add("--memory-max", words.memory_max,
        "memory of what runs in the guest, 64M up to its size; commands that need more are killed. "
        "The host holds the VM to its guest's size: what was used once is not given back");
    add("--pids-max", words.pids_max, "processes in it, 8 or more");
    add("--disk-max", words.disk_max,
        "size of its disk, no less than it is (the template's --disk); it and the file system "
        "grow");
    add("--io-max", words.io_max,
        "of its disk in a second: BYTES[,ops=N][,burst=BYTES][,ops-burst=N]");
    add("--net-max", words.net_max,
        "of its network in a second, each way: BYTES[,packets=N][,burst=..][,packets-burst=N]");
}

std::string cpus_text(uint64_t millis) {
    char text[32];
    std::snprintf(text, sizeof(text), "%g", static_cast<double>(millis) / 1000);
    return text;
}

nlohmann::json quotas_json(const Quotas& quotas) {
    auto number = [](uint64_t value) {
        return value == 0 ? nlohmann::json() : nlohmann::json(value);
    };
    auto rates = [](const RateLimits& limits, const char* unit) {
        return limits.limited() ? nlohmann::json(rate_limits_text(limits, unit)) : nlohmann::json();
    };
    return {
        {"cpu_max", quotas.cpu_max_millis == 0 ? nlohmann::json()
                                               : nlohmann::json(cpus_text(quotas.cpu_max_millis))},
        {"cpu_weight", number(quotas.cpu_weight)},
        {"memory_max", number(quotas.memory_max)},
        {"pids_max", number(quotas.pids_max)},
        {"disk_max", number(quotas.disk_max)},
        {"io_max", rates(quotas.io, "ops")},
        {"net_max", rates(quotas.net, "packets")}};
}

nlohmann::json unenforced_json(const std::vector<Unenforced>& unenforced) {
    nlohmann::json document = nlohmann::json::object();
    for (const Unenforced& each : unenforced)
        document[each.name] = each.why;
    return document;
}

void warn_unenforced(const std::string& id, const std::vector<Unenforced>& unenforced) {
    for (const Unenforced& each : unenforced)
        std::fprintf(stderr,
                     "spore: sandbox '%s': %s is not enforced on this host: %s; see spore doctor\n",
                     id.c_str(), each.name.c_str(), each.why.c_str());
}

}  // namespace spore::cli
