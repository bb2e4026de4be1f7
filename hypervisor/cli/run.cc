// spore run: one VM in the foreground. The same options as spore-vmm, which takes over.

#include <unistd.h>

#include "hypervisor/cli/commands.h"
#include "hypervisor/sandbox/home.h"
#include "hypervisor/vmm/options.h"

namespace spore::cli {

namespace {

Status run_vmm(const std::vector<std::string>& words) {
    std::vector<std::string> arguments = {"spore run"};
    arguments.insert(arguments.end(), words.begin(), words.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments)
        argv.push_back(argument.data());
    argv.push_back(nullptr);
    // Parsed here as well, so that a mistake is told in spore's own words before anything starts.
    auto options = TRY(parse_vmm_options(static_cast<int>(arguments.size()), argv.data()));
    if (options.help) {
        std::printf("spore run [OPTIONS]\n\n%s", std::string(vmm_help()).c_str());
        return {};
    }
    auto program = TRY(Home::program("spore-vmm"));
    ::execv(program.c_str(), argv.data());
    return fail_errno(program.string());
}

}  // namespace

void add_run(CLI::App& app, Context& context) {
    CLI::App* command =
        app.add_subcommand("run", "boot one VM in the foreground, its console on the terminal");
    command->prefix_command();
    command->set_help_flag();
    command->callback([&context, command] {
        Status status = run_vmm(command->remaining());
        if (!status)
            context.exit_status = report(context.globals, status.error());
    });
}

}  // namespace spore::cli
