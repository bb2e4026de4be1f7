// --network and what belongs to it

#include "hypervisor/cli/network.h"

#include "hypervisor/jail/jail.h"
#include "hypervisor/network/sandbox_network.h"
#include "hypervisor/network/user_network.h"
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
    document["by"] = report->by;
    document["link"] = report->link;
    document["address"] = report->address;
    document["open"] = report->open;
    document["intact"] = report->intact;
    if (!report->intact)
        document["why"] = report->what_changed;
    return document;
}

namespace {

void add_keeper(CLI::App& app, Context& context) {
    auto ready = std::make_shared<int>(-1);
    CLI::App* command = app.add_subcommand("network-keeper", "")->group("");
    command->add_option("--ready-fd", *ready)->required();
    on_chosen(command, context, [ready] {
        return keep_user_network(*ready, [] { return restrict_thread(Role::keeper); });
    });
}

void add_resolver(CLI::App& app, Context& context) {
    struct Options {
        std::string directory;
        NetworkWords words;
        int vmm_pid = 0;
        int ready_fd = -1;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("network-resolver", "")->group("");
    command->add_option("directory", options->directory)->required();
    command->add_option("--vmm", options->vmm_pid)->required();
    command->add_option("--ready-fd", options->ready_fd);
    add_network_options(command, options->words);
    on_chosen(command, context, [options] {
        return serve_names(options->directory, options->words, options->vmm_pid, options->ready_fd);
    });
}

}  // namespace

void add_network(CLI::App& app, Context& context) {
    add_resolver(app, context);
    add_keeper(app, context);
}

}  // namespace spore::cli
