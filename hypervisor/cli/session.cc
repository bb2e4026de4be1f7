// spore session: shells in a sandbox that keep their state. `spore exec -s` gives them lines.

#include "hypervisor/sandbox/agent_sessions.h"

#include "hypervisor/cli/agent_link.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/environment_options.h"

namespace spore::cli {

namespace {

Status create(const std::string& id, SessionSpec& spec, const EnvironmentOptions& environment) {
    spec.environment = TRY(variables_of(environment));
    auto agent = TRY(link_agent(id));
    return create_session(*agent, spec, answer_deadline());
}

Status list(Context& context, const std::string& id) {
    auto agent = TRY(link_agent(id));
    const auto sessions = TRY(list_sessions(*agent, answer_deadline()));
    if (context.globals.json) {
        nlohmann::json document = nlohmann::json::array();
        for (const SessionInfo& each : sessions)
            document.push_back({{"name", each.name},
                                {"cwd", each.cwd},
                                {"user", each.user},
                                {"shell", each.shell},
                                {"pid", each.pid},
                                {"busy", each.busy}});
        print_json(document);
        return {};
    }
    Table table({"NAME", "STATE", "PID", "SHELL", "DIRECTORY"});
    for (const SessionInfo& each : sessions)
        table.add({each.name, each.busy ? "busy" : "idle",
                   each.pid == 0 ? "-" : std::to_string(each.pid), each.shell, each.cwd});
    table.print();
    return {};
}

void add_create(CLI::App* group, Context& context) {
    struct Options {
        std::string id;
        SessionSpec spec;
        EnvironmentOptions environment;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = group->add_subcommand(
        "create", "start a shell that keeps its state between lines (spore exec -s NAME)");
    command->add_option("id", options->id, "the sandbox")->required();
    command->add_option("name", options->spec.name, "the session's name")->required();
    add_environment_options(command, options->environment);
    add_unset_option(command, options->spec.unset);
    command->add_option("--workdir,-w", options->spec.cwd, "directory to start in (the home)");
    command->add_option("--user,-u", options->spec.user, "whose shell: name or UID (root)");
    command->add_option("--shell", options->spec.shell, "a POSIX shell (/bin/sh)");
    on_chosen(command, context, [&context, options]() -> Status {
        TRY(create(options->id, options->spec, options->environment));
        if (context.globals.json)
            print_json({{"name", options->spec.name}});
        return {};
    });
}

void add_list(CLI::App* group, Context& context) {
    auto id = std::make_shared<std::string>();
    CLI::App* command = group->add_subcommand("list", "a sandbox's sessions");
    command->add_option("id", *id, "the sandbox")->required();
    on_chosen(command, context, [&context, id] { return list(context, *id); });
}

void add_delete(CLI::App* group, Context& context) {
    auto words = std::make_shared<std::pair<std::string, std::string>>();
    CLI::App* command = group->add_subcommand("delete", "end a session, and all that runs in it");
    command->add_option("id", words->first, "the sandbox")->required();
    command->add_option("name", words->second, "the session's name")->required();
    on_chosen(command, context, [&context, words]() -> Status {
        auto agent = TRY(link_agent(words->first));
        TRY(delete_session(*agent, words->second, answer_deadline()));
        if (context.globals.json)
            print_json({{"deleted", words->second}});
        return {};
    });
}

}  // namespace

void add_session(CLI::App& app, Context& context) {
    CLI::App* group = app.add_subcommand("session", "shells in a sandbox that keep their state");
    group->require_subcommand(1);
    add_create(group, context);
    add_list(group, context);
    add_delete(group, context);
}

}  // namespace spore::cli
