// spore exec: one command in a sandbox, its streams ours, its exit status ours.

#include <cstdlib>
#include <fstream>

#include "hypervisor/cli/exec_run.h"

namespace spore::cli {

namespace {

struct ExecOptions {
    ExecRun run;
    std::vector<std::string> argv;
    std::vector<std::string> environment;
    std::vector<std::string> environment_files;
    std::string limit;
    bool terminal = false;
    bool shell = false;
};

using Variables = std::vector<std::pair<std::string, std::string>>;

// "NAME=VALUE", or "NAME" with the value that it has in our own environment: so a secret need not
// stand in an argv, which every process of this machine may see.
Status add_variable(Variables& variables, const std::string& word, const std::string& where) {
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    if (name.empty())
        return fail(Code::invalid_argument, where + " '" + word + "': must be NAME=VALUE or NAME");
    if (equals != std::string::npos) {
        variables.emplace_back(name, word.substr(equals + 1));
        return {};
    }
    const char* value = std::getenv(name.c_str());
    if (value == nullptr)
        return fail(Code::invalid_argument,
                    where + " '" + name + "': has no value, and is not in our own environment");
    variables.emplace_back(name, value);
    return {};
}

// One such word on each line; empty ones and those that begin with '#' are passed over.
Status add_file(Variables& variables, const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
        return fail_errno("env-file " + path);
    size_t number = 0;
    for (std::string line; std::getline(file, line);) {
        ++number;
        if (!line.empty() && line[0] != '#')
            TRY(add_variable(variables, line, path + ":" + std::to_string(number)));
    }
    if (file.bad())
        return fail_errno("env-file " + path);
    return {};
}

std::string joined(const std::vector<std::string>& words) {
    std::string line;
    for (const std::string& word : words)
        line += (line.empty() ? "" : " ") + word;
    return line;
}

Status complete(ExecOptions& options) {
    ExecRequest& request = options.run.request;
    if (options.shell)
        request.argv = {"/bin/sh", "-c", joined(options.argv)};
    else if (!request.session.empty())
        request.argv = {joined(options.argv)};
    else
        request.argv = options.argv;
    for (const std::string& path : options.environment_files)
        TRY(add_file(request.environment, path));
    for (const std::string& word : options.environment)
        TRY(add_variable(request.environment, word, "env"));
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

void add_environment(CLI::App* command, ExecOptions& options) {
    const auto repeatable = [](CLI::Option* option) { option->allow_extra_args(false); };
    repeatable(command->add_option("--env,-e", options.environment,
                                   "NAME=VALUE for it alone; NAME: as it is in our environment, so "
                                   "that a secret is in no argv; repeatable"));
    repeatable(command->add_option("--env-file", options.environment_files,
                                   "such words, one a line; repeatable"));
    repeatable(command->add_option("--unset", options.run.request.unset,
                                   "leave this variable out; repeatable"));
    command->add_flag("--clear-env", options.run.request.clear_environment,
                      "start it without the sandbox's variables");
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
    add_environment(command, *options);
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
