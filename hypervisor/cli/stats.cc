// spore stats

#include "hypervisor/sandbox/stats.h"

#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/quota_options.h"

namespace spore::cli {

namespace {

constexpr std::chrono::milliseconds kStatsLimit{2000};

nlohmann::json optional_json(const std::optional<uint64_t>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
}

// As the device has it; null: no limit.
nlohmann::json rate_json(const RateLimits& limits, const char* operations) {
    auto value = [](const Rate& rate) {
        return rate.limited() ? nlohmann::json(rate.per_second) : nlohmann::json();
    };
    return {{"bytes_per_second", value(limits.bytes)}, {operations, value(limits.operations)}};
}

// An agent of an earlier Spore tells no bound of what it does not know.
nlohmann::json known_json(uint64_t value, uint64_t bound) {
    return bound == 0 ? nlohmann::json() : nlohmann::json(value);
}

nlohmann::json guest_json(const AgentUsage& guest) {
    return {
        {"pids", guest.processes},
        {"pids_max", guest.processes_max},
        {"commands_memory_bytes", guest.memory_bytes},
        {"commands_memory_bytes_max", guest.memory_bytes_max},
        {"root_bytes", guest.root_bytes_used},
        {"root_bytes_max", guest.root_bytes},
        {"open_files", known_json(guest.open_files, guest.open_files_max)},
        {"open_files_max", known_json(guest.open_files_max, guest.open_files_max)},
        {"kept_processes", known_json(guest.kept_processes, guest.kept_processes_max)},
        {"kept_processes_max", known_json(guest.kept_processes_max, guest.kept_processes_max)},
        {"output_bytes", known_json(guest.output_bytes, guest.output_bytes_max)},
        {"output_bytes_reserved", known_json(guest.output_bytes_reserved, guest.output_bytes_max)},
        {"output_bytes_max", known_json(guest.output_bytes_max, guest.output_bytes_max)}};
}

// What runs for a network beside the VM; null: it does not.
nlohmann::json helper_json(const std::optional<CgroupUsage>& usage) {
    if (!usage)
        return nullptr;
    return {{"cpu_used_us", optional_json(usage->cpu_us)},
            {"cpu_throttled_us", optional_json(usage->throttled_us)},
            {"cpu_max", usage->cpu_max_millis.value_or(0) == 0
                            ? nlohmann::json()
                            : nlohmann::json(cpus_text(*usage->cpu_max_millis))},
            {"memory_bytes", optional_json(usage->memory_bytes)},
            {"memory_bytes_max", optional_json(usage->memory_max)},
            {"oom_kills", optional_json(usage->oom_kills)},
            {"tasks", optional_json(usage->tasks)},
            {"tasks_max", optional_json(usage->tasks_max)}};
}

nlohmann::json to_json(const SandboxStats& stats) {
    nlohmann::json document = {
        {"id", stats.info.record.id},
        {"limits", quotas_json(stats.info.record.quotas)},
        {"cpu",
         {{"used_us", stats.cpu_us}, {"throttled_us", optional_json(stats.cpu_throttled_us)}}},
        {"memory",
         {{"bytes", stats.memory_bytes},
          {"vmm_bytes_max", optional_json(stats.memory_max)},
          {"oom_kills", optional_json(stats.oom_kills)}}},
        {"vmm",
         {{"open_files", optional_json(stats.process.open_files)},
          {"open_files_max", optional_json(stats.process.open_files_max)},
          {"tasks", optional_json(stats.process.tasks)},
          {"tasks_max", optional_json(stats.process.tasks_max)}}},
        {"disk", {{"bytes", stats.disk_bytes}, {"bytes_max", stats.disk_max}}},
        {"network", nullptr},
        {"beside",
         {{"passt", helper_json(stats.passt)}, {"resolver", helper_json(stats.resolver)}}},
        {"console", nullptr},
        {"vsock", nullptr},
        {"guest", nullptr},
        {"not_enforced", unenforced_json(stats.unenforced)},
        {"not_known", unenforced_json(stats.why_not)}};
    if (stats.disk) {
        auto& disk = document["disk"];
        disk["read_bytes"] = stats.disk->read_bytes;
        disk["reads"] = stats.disk->reads;
        disk["written_bytes"] = stats.disk->written_bytes;
        disk["writes"] = stats.disk->writes;
        disk["throttled_us"] = stats.disk->throttled_us;
        disk["held_to"] = rate_json(stats.disk->held_to, "operations_per_second");
    }
    if (stats.network)
        document["network"] = {
            {"rx_bytes", stats.network->rx_bytes},
            {"rx_packets", stats.network->rx_packets},
            {"rx_throttled_us", stats.network->rx_throttled_us},
            {"tx_bytes", stats.network->tx_bytes},
            {"tx_packets", stats.network->tx_packets},
            {"tx_throttled_us", stats.network->tx_throttled_us},
            {"held_to", rate_json(stats.network->held_to, "packets_per_second")}};
    if (stats.console)
        document["console"] = {{"bytes", stats.console->bytes},
                               {"bytes_max", stats.console->bytes_max},
                               {"dropped_bytes", stats.console->dropped_bytes}};
    if (stats.vsock)
        document["vsock"] = {{"connections", stats.vsock->connections},
                             {"connections_max", stats.vsock->connections_max},
                             {"buffered_bytes", stats.vsock->buffered_bytes},
                             {"refused", stats.vsock->refused}};
    if (stats.guest)
        document["guest"] = guest_json(*stats.guest);
    return document;
}

std::string seconds_text(uint64_t us) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.2fs", static_cast<double>(us) / 1e6);
    return text;
}

std::string of(const std::string& used, const std::string& bound) {
    return bound.empty() ? used : used + "/" + bound;
}

std::string optional_text(const std::optional<uint64_t>& value) {
    return value ? std::to_string(*value) : "-";
}

std::string processor_text(uint64_t us, const std::optional<uint64_t>& throttled_us) {
    std::string text = seconds_text(us);
    if (throttled_us && *throttled_us > 0)
        text += " (waited " + seconds_text(*throttled_us) + ")";
    return text;
}

std::string optional_bytes(const std::optional<uint64_t>& bytes) {
    return bytes ? human_bytes(*bytes) : "-";
}

// Of what runs beside a VM: the columns that it has.
void add_helper_row(Table& table, const std::string& name, const CgroupUsage& usage) {
    uint64_t cpu_max = usage.cpu_max_millis.value_or(0), memory_max = usage.memory_max.value_or(0);
    table.add(
        {name, usage.cpu_us ? processor_text(*usage.cpu_us, usage.throttled_us) : "-",
         cpu_max == 0 ? "-" : cpus_text(cpu_max),
         of(optional_bytes(usage.memory_bytes), memory_max == 0 ? "" : human_bytes(memory_max)),
         "-", "-", "-", of(optional_text(usage.tasks), optional_text(usage.tasks_max)), "-", "-",
         "-", "-"});
}

void add_row(Table& table, const SandboxStats& stats) {
    const Quotas& quotas = stats.info.record.quotas;
    std::string cpu = processor_text(stats.cpu_us, stats.cpu_throttled_us);
    std::string limit = quotas.cpu_max_millis == 0 ? "" : cpus_text(quotas.cpu_max_millis);
    std::string io = "-", net = "-", pids = "-";
    if (stats.disk)
        io = human_bytes(stats.disk->read_bytes) + " r, " + human_bytes(stats.disk->written_bytes) +
             " w" +
             (stats.disk->throttled_us > 0
                  ? " (waited " + seconds_text(stats.disk->throttled_us) + ")"
                  : "");
    if (stats.network)
        net = human_bytes(stats.network->rx_bytes) + " in, " +
              human_bytes(stats.network->tx_bytes) + " out";
    if (stats.guest)
        pids =
            of(std::to_string(stats.guest->processes), std::to_string(stats.guest->processes_max));
    std::string console = "-", vsock = "-", output = "-";
    if (stats.console)
        console = of(human_bytes(stats.console->bytes), human_bytes(stats.console->bytes_max));
    if (stats.vsock)
        vsock = of(std::to_string(stats.vsock->connections),
                   std::to_string(stats.vsock->connections_max));
    if (stats.guest && stats.guest->output_bytes_max != 0)
        output =
            of(human_bytes(stats.guest->output_bytes), human_bytes(stats.guest->output_bytes_max));
    uint64_t memory_max = quotas.memory_max != 0 ? quotas.memory_max : stats.memory_max.value_or(0);
    table.add(
        {stats.info.record.id, cpu, limit.empty() ? "-" : limit,
         of(human_bytes(stats.memory_bytes), memory_max == 0 ? "" : human_bytes(memory_max)),
         of(human_bytes(stats.disk_bytes), human_bytes(stats.disk_max)), io, net, pids,
         of(optional_text(stats.process.open_files), optional_text(stats.process.open_files_max)),
         vsock, console, output});
    if (stats.passt)
        add_helper_row(table, stats.info.record.id + "/passt", *stats.passt);
    if (stats.resolver)
        add_helper_row(table, stats.info.record.id + "/resolver", *stats.resolver);
}

Status stats(Context& context, const std::string& id) {
    auto home = TRY(Home::open());
    std::vector<SandboxInfo> wanted;
    if (id.empty())
        wanted = TRY(list_sandboxes(home));
    else
        wanted.push_back(TRY(find_sandbox(home, id)));
    nlohmann::json document = nlohmann::json::array();
    Table table({"ID", "CPU TIME", "CPUS", "MEMORY", "DISK", "BLOCK", "NETWORK", "PIDS", "FILES",
                 "VSOCK", "CONSOLE", "OUTPUT"});
    for (const SandboxInfo& info : wanted) {
        if (!info.alive && id.empty())
            continue;
        auto one = sandbox_stats(home, info, kStatsLimit);
        if (!one && id.empty())
            continue;  // it has ended since
        TRY(Status(one ? Status() : std::unexpected(one.error())));
        document.push_back(to_json(*one));
        add_row(table, *one);
        if (!context.globals.json)
            warn_unenforced(info.record.id, one->unenforced);
    }
    if (context.globals.json)
        print_json(id.empty() ? document : document.front());
    else
        table.print();
    return {};
}

}  // namespace

void add_stats(CLI::App& app, Context& context) {
    auto id = std::make_shared<std::string>();
    CLI::App* command =
        app.add_subcommand("stats",
                           "what sandboxes use, and of what: a line for each, and for "
                           "what runs for its network beside its VM");
    command->add_option("id", *id, "one of them (all that run)");
    on_chosen(command, context, [&context, id] { return stats(context, *id); });
}

}  // namespace spore::cli
