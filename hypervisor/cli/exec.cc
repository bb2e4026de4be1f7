// spore exec: one command in a sandbox, its streams ours, its exit status ours.

#include "hypervisor/base/words.h"
#include "hypervisor/cli/environment_options.h"
#include "hypervisor/cli/exec_run.h"

namespace spore::cli {

namespace {

struct ExecOptions {
    ExecRun run;
    std::vector<std::string> argv;
    EnvironmentOptions environment;
    std::string limit;
    bool terminal = false;
    bool shell = false;
};

Status complete(ExecOptions& options) {
    ExecRequest& request = options.run.request;
    if (options.shell)
        request.argv = {"/bin/sh", "-c", joined(options.argv, " ")};
    else if (!request.session.empty())
        request.argv = {joined(options.argv, " ")};
    else
        request.argv = options.argv;
    request.environment = TRY(variables_of(options.environment));
    if (!options.limit.empty())
        request.timeout = TRY(parse_duration("timeout", options.limit));
    if (options.terminal)
        request.pty.emplace();
    return {};
}

void add_streams(CLI::App* command, ExecOptions& options) {
    command->add_flag("-i,--stdin", options.run.with_stdin, "hand over our standard input");
    command->add_flag("-t,--tty", options.terminal,
                      "give it a terminal; with -i ours is in raw mode meanwhile");
    command->add_flag("--shell", options.shell, "the words are one line for /bin/sh");
}

}  // namespace

void add_exec(CLI::App& app, Context& context) {
    auto options = std::make_shared<ExecOptions>();
    CLI::App* command = app.add_subcommand(
        "exec",
        "run a command in a sandbox\n\n"
        "Exit status: the command's own; 128+n ended by signal n; 124 timed out; 125 Spore's own\n"
        "failure; 126 not executable; 127 not found.");
    command->add_option("id", options->run.id, "the sandbox")->required();
    command->add_option("argv", options->argv, "the command, after --")->required();
    add_environment_options(command, options->environment);
    add_unset_option(command, options->run.request.unset);
    add_clear_option(command, options->run.request.clear_environment);
    command->add_option("--session,-s", options->run.request.session,
                        "the words are one line for this session's shell (spore session)");
    command->add_option("--workdir,-w", options->run.request.cwd, "directory to run it in");
    command->add_option("--user,-u", options->run.request.user, "who runs it: name or UID (root)");
    command->add_option("--timeout", options->limit, "kill it after this long: 30s, 5m");
    add_streams(command, *options);
    on_chosen(command, context, [&context, options]() -> Status {
        if (Status status = complete(*options); !status) {
            report(context.globals, status.error());
            context.exit_status = kExitSpore;
            return {};
        }
        run_in_sandbox(context, options->run);
        return {};
    });
}

}  // namespace spore::cli
