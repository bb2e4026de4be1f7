// spore update: what a running sandbox may use and reach, and the environment of its commands

#include "hypervisor/cli/agent_link.h"
#include "hypervisor/cli/environment_options.h"
#include "hypervisor/cli/network.h"
#include "hypervisor/cli/quota_options.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::cli {

namespace {

struct UpdateOptions {
    std::string id;
    QuotaWords quotas;
    NetworkWords network;
    bool with_network = false;
    EnvironmentOptions environment;
    std::vector<std::string> unset;
    std::string limit = "10s";
};

Status update(Context& context, const UpdateOptions& options) {
    const Variables variables = TRY(variables_of(options.environment));
    const bool with_environment = !variables.empty() || !options.unset.empty();
    if (!options.quotas.any() && !options.with_network && !with_environment)
        return fail(Code::invalid_argument,
                    "update '" + options.id + "': names nothing to change; see --help");
    auto limit = TRY(parse_duration("timeout", options.limit));
    auto home = TRY(Home::open());
    std::vector<Unenforced> unenforced;
    // Limits first: they are refused more often, and then nothing has changed yet.
    if (options.quotas.any())
        unenforced = TRY(update_sandbox(home, options.id, options.quotas, limit)).unenforced;
    if (options.with_network)
        TRY(update_network(home, options.id, options.network));
    if (with_environment) {
        auto agent = TRY(link_agent(options.id));
        TRY(agent->set_environment(variables, options.unset,
                                   std::chrono::steady_clock::now() + limit));
    }
    if (!context.globals.json) {
        warn_unenforced(options.id, unenforced);
        return {};
    }
    auto info = TRY(find_sandbox(home, options.id));
    print_json({{"id", options.id},
                {"limits", quotas_json(info.record.quotas)},
                {"not_enforced", unenforced_json(unenforced)},
                {"network", network_of(info.record, run_directory(home, options.id))}});
    return {};
}

}  // namespace

void add_update(CLI::App& app, Context& context) {
    auto options = std::make_shared<UpdateOptions>();
    CLI::App* command = app.add_subcommand(
        "update",
        "change what a running sandbox may use, may reach (open connections too), or the\n"
        "environment that its commands get from here on");
    command->add_option("id", options->id, "its name")->required();
    add_quota_options(*command, options->quotas);
    add_network_options(command, options->network);
    add_environment_options(command, options->environment);
    add_unset_option(command, options->unset);
    CLI::Option* network = command->get_option("--network");
    for (const char* name : {"--allow", "--deny", "--dns"})
        command->get_option(name)->needs(network);
    command->add_option("--timeout", options->limit, "give up after this long (10s)");
    on_chosen(command, context, [&context, options, network] {
        options->with_network = network->count() > 0;
        return update(context, *options);
    });
}

}  // namespace spore::cli
