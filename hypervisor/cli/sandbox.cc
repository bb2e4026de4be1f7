// spore create, list, restart, destroy

#include "hypervisor/sandbox/sandbox.h"

#include <fstream>
#include <optional>

#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/environment_options.h"
#include "hypervisor/cli/network.h"
#include "hypervisor/cli/quota_options.h"
#include "hypervisor/jail/cgroup.h"
#include "hypervisor/sandbox/network_json.h"
#include "hypervisor/sandbox/vmm_client.h"

namespace spore::cli {

namespace {

nlohmann::json to_json(const SandboxInfo& info) {
    const SandboxRecord& record = info.record;
    nlohmann::json document = {{"id", record.id},
                               {"template", record.template_name},
                               {"state", info.alive ? "running" : "dead"},
                               {"created_unix_ms", record.created_unix_ms},
                               {"pid", record.process.pid},
                               {"owner", record.owner},
                               {"labels", record.labels}};
    return document;
}

nlohmann::json to_json(const CreatedSandbox& created) {
    nlohmann::json document = to_json(created.info);
    document["boundaries_us"] = {{"b1", created.boundaries.b1_us},
                                 {"b2", created.boundaries.b2_us},
                                 {"b3", created.boundaries.b3_us}};
    document["source"] = source_name(created.source);
    if (created.info.record.network)
        document["network"] = spore::to_json(*created.info.record.network);
    document["limits"] = quotas_json(created.info.record.quotas);
    document["not_enforced"] = unenforced_json(created.unenforced);
    for (const StageTime& stage : created.stages)
        document["stages_us"].push_back({stage.name, stage.end_us});
    return document;
}

// What it says of its cgroup, if that is what /proc says too: a process can be moved from outside.
JailItem seen_from_outside(JailItem cgroup, int pid) {
    auto path = cgroup_of(std::to_string(pid));
    if (cgroup.holds && path && *path != cgroup.path)
        return {cgroup.name, false, "it was moved from " + cgroup.path + " to " + *path, {}};
    return cgroup;
}

// What the VM itself says of its jail: {"user": {"holds": true}, "cgroup": {"holds": true, "path":
// "/spore/..."}, "pid": {"holds": false, "why": ".."}}. One that does not answer in time is not
// waited for: null.
nlohmann::json jail_of(const Home& home, const SandboxInfo& info) {
    if (!info.alive)
        return nullptr;
    auto client = VmmClient::connect(run_directory(home, info.record.id));
    if (!client)
        return nullptr;
    auto status = client->status(std::chrono::steady_clock::now() + std::chrono::seconds(2));
    if (!status)
        return nullptr;
    nlohmann::json jail = nlohmann::json::object();
    for (JailItem item : status->jail.items) {
        if (item.name == "cgroup")
            item = seen_from_outside(std::move(item), info.record.process.pid);
        jail[item.name]["holds"] = item.holds;
        if (!item.holds)
            jail[item.name]["why"] = item.why;
        if (item.holds && !item.path.empty())
            jail[item.name]["path"] = item.path;
    }
    return jail;
}

// The user that a process is, seen from outside; null: it has ended.
nlohmann::json user_of(int pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/status");
    for (std::string word; file >> word;) {
        unsigned id = 0;
        if (word == "Uid:" && file >> id)
            return id;
    }
    return nullptr;
}

// The sandbox is there, whether its VMM tells of its times or not.
void print_created(const Home& home, CreatedSandbox& created) {
    if (auto learnt = learn_times(home, created); !learnt)
        std::fprintf(stderr, "spore: times of '%s': %s\n", created.info.record.id.c_str(),
                     learnt.error().message.c_str());
    print_json(to_json(created));
}

struct CreateOptions {
    SandboxSpec spec;
    QuotaWords quotas;
    EnvironmentOptions environment;
    std::vector<std::string> labels;
    std::string limit = "60s";
};

// What `make` does, with a line for what it says by `progress` on the way, which is gone with its
// end.
Result<CreatedSandbox> with_progress(Context& context, Progress& progress,
                                     const std::function<Result<CreatedSandbox>()>& make) {
    std::optional<ProgressLine> line;
    progress = [&](const std::string& text) {
        if (!line)
            line.emplace(context.globals);
        line->show(text);
    };
    auto made = make();
    progress = nullptr;
    return made;
}

Status create(Context& context, CreateOptions& options) {
    for (auto& [name, value] : TRY(variables_of(options.environment)))
        options.spec.environment[name] = std::move(value);
    options.spec.labels = TRY(parse_pairs("label", options.labels));
    options.spec.quotas = TRY(with_words({}, options.quotas));
    options.spec.limit = TRY(parse_duration("timeout", options.limit));
    auto home = TRY(Home::open());
    auto created = TRY(with_progress(context, options.spec.progress,
                                     [&] { return create_sandbox(home, options.spec); }));
    if (!context.globals.json) {
        std::printf("%s\n", created.info.record.id.c_str());
        warn_unenforced(created.info.record.id, created.unenforced);
        return {};
    }
    print_created(home, created);
    return {};
}

struct RestartOptions {
    std::string id;
    RestartSpec spec;
    std::string limit = "60s";
};

Status restart(Context& context, RestartOptions& options) {
    options.spec.limit = TRY(parse_duration("timeout", options.limit));
    auto home = TRY(Home::open());
    auto created = TRY(with_progress(context, options.spec.progress, [&] {
        return restart_sandbox(home, options.id, options.spec);
    }));
    if (context.globals.json)
        print_created(home, created);
    else
        warn_unenforced(options.id, created.unenforced);
    return {};
}

Status list_all(Context& context) {
    auto home = TRY(Home::open());
    auto sandboxes = TRY(list_sandboxes(home));
    if (context.globals.json) {
        nlohmann::json document = nlohmann::json::array();
        for (const SandboxInfo& info : sandboxes) {
            document.push_back(to_json(info));
            document.back()["jail"] = jail_of(home, info);
            document.back()["uid"] = info.alive ? user_of(info.record.process.pid) : nullptr;
            document.back()["network"] =
                network_of(info.record, run_directory(home, info.record.id));
        }
        print_json(document);
        return {};
    }
    Table table({"ID", "TEMPLATE", "STATE", "AGE", "PID", "LABELS"});
    for (const SandboxInfo& info : sandboxes) {
        std::string labels;
        for (const auto& [key, value] : info.record.labels)
            labels += (labels.empty() ? "" : ",") + key + "=" + value;
        table.add({info.record.id, info.record.template_name, info.alive ? "running" : "dead",
                   human_age(info.record.created_unix_ms), std::to_string(info.record.process.pid),
                   labels});
    }
    table.print();
    return {};
}

Status destroy(Context& context, const std::vector<std::string>& ids) {
    auto home = TRY(Home::open());
    nlohmann::json destroyed = nlohmann::json::array();
    Status first;
    for (const std::string& id : ids) {  // one that fails does not keep the others alive
        Status status = destroy_sandbox(home, id);
        if (status)
            destroyed.push_back(id);
        else if (first)
            first = status;
        else
            std::fprintf(stderr, "spore: %s\n", status.error().message.c_str());
    }
    if (context.globals.json && first)
        print_json({{"destroyed", destroyed}});
    return first;
}

}  // namespace

void add_sandbox(CLI::App& app, Context& context) {
    auto options = std::make_shared<CreateOptions>();
    CLI::App* command = app.add_subcommand("create", "clone a template: a new sandbox");
    command->add_option("id", options->spec.id, "its name (a random one)");
    command->add_option("--template,-t", options->spec.template_name, "the template to clone")
        ->required();
    add_environment_options(command, options->environment);
    command->add_option("--label", options->labels, "NAME=VALUE to find it by; repeatable")
        ->allow_extra_args(false);
    command->add_option("--owner", options->spec.owner, "whose it is");
    add_network_options(command, options->spec.network);
    add_quota_options(*command, options->quotas);
    command->add_flag("--cold", options->spec.cold,
                      "start from nothing, though clones may wait (spore pool)");
    command->add_flag("--stages", options->spec.stage_times,
                      "with --json: where the time went, the end of each stage in µs");
    command->add_option("--timeout", options->limit, "give up after this long (60s)");
    on_chosen(command, context, [&context, options] { return create(context, *options); });

    CLI::App* list = app.add_subcommand("list", "all sandboxes");
    on_chosen(list, context, [&context] { return list_all(context); });

    auto again = std::make_shared<RestartOptions>();
    CLI::App* restart_command = app.add_subcommand(
        "restart",
        "give a sandbox whose VM has ended a new one: a fresh clone of its template under the "
        "same\n"
        "name, with its environment (as at create), labels, owner, limits and network. Its files\n"
        "and all that ran in it are gone. If it fails the sandbox stays as it was.");
    restart_command->add_option("id", again->id, "its name")->required();
    restart_command->add_flag("--force", again->spec.running_too,
                              "one that runs too; it is ended when the new one is there");
    restart_command->add_option("--timeout", again->limit, "give up after this long (60s)");
    on_chosen(restart_command, context, [&context, again] { return restart(context, *again); });

    auto ids = std::make_shared<std::vector<std::string>>();
    CLI::App* destroy_command =
        app.add_subcommand("destroy", "end sandboxes and remove all that belongs to them");
    destroy_command->add_option("id", *ids, "their names")->required();
    on_chosen(destroy_command, context, [&context, ids] { return destroy(context, *ids); });
}

}  // namespace spore::cli
