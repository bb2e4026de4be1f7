// spore shell: a person's shell in a sandbox, on the person's terminal.

#include "hypervisor/cli/exec_run.h"

namespace spore::cli {

namespace {

// The agent sets SHELL to what the user's passwd entry says; /bin/sh where there is none, or none
// that runs. Nothing of a caller's is in this text.
constexpr const char* kLoginShell =
    "[ -x \"${SHELL-}\" ] || SHELL=/bin/sh; export SHELL; exec \"$SHELL\" -l";

}  // namespace

void add_shell(CLI::App& app, Context& context) {
    auto run = std::make_shared<ExecRun>();
    run->request.argv = {"/bin/sh", "-c", kLoginShell};
    run->request.pty.emplace();
    run->with_stdin = true;
    CLI::App* command = app.add_subcommand("shell",
                                           "a login shell in a sandbox, on this terminal\n\n"
                                           "Ends with the shell (exit, Ctrl-D), whose exit status "
                                           "it passes on; 125 Spore's own failure.");
    command->add_option("id", run->id, "the sandbox")->required();
    command->add_option("--workdir,-w", run->request.cwd, "directory to start in (the home)");
    command->add_option("--user,-u", run->request.user, "whose shell: name or UID (root)");
    on_chosen(command, context, [&context, run]() -> Status {
        run_in_sandbox(context, *run);
        return {};
    });
}

}  // namespace spore::cli
