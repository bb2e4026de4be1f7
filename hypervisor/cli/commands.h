#pragma once

// The commands of `spore`, one file each or a few that belong together. Each adds its subcommand to
// the application; what it does when chosen is its callback, which sets the exit status.

#include <CLI/CLI.hpp>
#include <functional>

#include "hypervisor/cli/output.h"

namespace spore::cli {

struct Context {
    Globals globals;
    int exit_status = 0;
};

// Runs `body` when `command` is chosen, reporting the error it may return.
void on_chosen(CLI::App* command, Context& context, std::function<Status()> body);

void add_doctor(CLI::App& app, Context& context);
void add_run(CLI::App& app, Context& context);
void add_image(CLI::App& app, Context& context);
void add_template(CLI::App& app, Context& context);
void add_sandbox(CLI::App& app, Context& context);  // create, list, restart, destroy
void add_network(CLI::App& app, Context& context);  // processes of spore's own
void add_update(CLI::App& app, Context& context);
void add_stats(CLI::App& app, Context& context);
void add_pool(CLI::App& app, Context& context);
void add_process(CLI::App& app, Context& context);
void add_context(CLI::App& app, Context& context);
void add_exec(CLI::App& app, Context& context);
void add_shell(CLI::App& app, Context& context);
void add_file(CLI::App& app, Context& context);
void add_cp(CLI::App& app, Context& context);
void add_port(CLI::App& app, Context& context);
void add_session(CLI::App& app, Context& context);

// "K=V" words into a map. Errors: invalid_argument, naming `what` and the word.
Result<std::map<std::string, std::string>> parse_pairs(std::string_view what,
                                                       const std::vector<std::string>& words);
// "500ms", "30s", "10m", "1h". Errors: invalid_argument.
Result<std::chrono::milliseconds> parse_duration(std::string_view what, std::string_view text);

}  // namespace spore::cli
