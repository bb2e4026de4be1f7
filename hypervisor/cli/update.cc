// spore update: what a running sandbox may use, and what it may reach

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
    std::string limit = "10s";
};

Status update(Context& context, const UpdateOptions& options) {
    if (!options.quotas.any() && !options.with_network)
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
        "update", "change what a running sandbox may use, or may reach (open connections too)");
    command->add_option("id", options->id, "its name")->required();
    add_quota_options(*command, options->quotas);
    add_network_options(command, options->network);
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
