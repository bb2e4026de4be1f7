// --network and what belongs to it; spore update

#include "hypervisor/cli/network.h"

#include "hypervisor/network/sandbox_network.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/network_json.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::cli {

void add_network_options(CLI::App* command, NetworkWords& words) {
    command->add_option("--network", words.mode,
                        "none: nothing passes; egress: to public addresses, or only to what "
                        "--allow names; open: to private ones around the host too (none)");
    auto repeatable = [command](const char* name, std::vector<std::string>& into,
                                const char* text) {
        command->add_option(name, into, text)
            ->take_all()
            ->expected(1)
            ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    };
    repeatable("--allow", words.allow,
               "with egress: CIDR[:PORT], NAME[:PORT] or *.NAME[:PORT]; repeatable");
    repeatable("--deny", words.deny,
               "CIDR[:PORT] that stays closed, or NAME among those allowed; repeatable");
    command->add_option("--dns", words.dns,
                        "the server that the sandbox's questions go to (the host's)");
}

nlohmann::json network_of(const SandboxRecord& record, const std::filesystem::path& directory) {
    if (!record.network)
        return nullptr;
    nlohmann::json document = spore::to_json(*record.network);
    auto report = inspect_network(directory);
    if (!report) {
        document["intact"] = false;
        document["why"] = report.error().message;
        return document;
    }
    document["link"] = report->link;
    document["address"] = report->address;
    document["open"] = report->open;
    document["intact"] = report->intact;
    if (!report->intact)
        document["why"] = report->what_changed;
    return document;
}

namespace {

struct UpdateOptions {
    std::string id;
    NetworkWords words;
};

Status update(Context& context, const UpdateOptions& options) {
    auto home = TRY(Home::open());
    TRY(update_network(home, options.id, options.words));
    if (!context.globals.json)
        return {};
    auto info = TRY(find_sandbox(home, options.id));
    print_json({{"id", options.id},
                {"network", network_of(info.record, run_directory(home, options.id))}});
    return {};
}

}  // namespace

void add_update(CLI::App& app, Context& context) {
    auto options = std::make_shared<UpdateOptions>();
    CLI::App* command = app.add_subcommand(
        "update", "change what a running sandbox may reach, for its open connections too");
    command->add_option("id", options->id, "its name")->required();
    add_network_options(command, options->words);
    command->get_option("--network")->required();
    on_chosen(command, context, [&context, options] { return update(context, *options); });
}

}  // namespace spore::cli
