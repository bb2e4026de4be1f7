#pragma once

// Options for the environment of what is started in a sandbox, the same for every command.

#include "hypervisor/cli/commands.h"

namespace spore::cli {

using Variables = std::vector<std::pair<std::string, std::string>>;

struct EnvironmentOptions {
    std::vector<std::string> words;  // NAME=VALUE or NAME
    std::vector<std::string> files;  // of such words
};

// --env and --env-file.
void add_environment_options(CLI::App* command, EnvironmentOptions& options);
// What they say, files first. Errors: invalid_argument, a file's.
Result<Variables> variables_of(const EnvironmentOptions& options);
// --unset.
void add_unset_option(CLI::App* command, std::vector<std::string>& names);
// --clear-env.
void add_clear_option(CLI::App* command, bool& clear);

}  // namespace spore::cli
