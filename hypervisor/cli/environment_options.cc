#include "hypervisor/cli/environment_options.h"

#include <cstdlib>
#include <fstream>

namespace spore::cli {

namespace {

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

// Each takes one word, or it would swallow the arguments behind it.
void add_repeatable(CLI::App* command, const char* names, std::vector<std::string>& words,
                    const char* help) {
    command->add_option(names, words, help)->allow_extra_args(false);
}

}  // namespace

void add_environment_options(CLI::App* command, EnvironmentOptions& options) {
    add_repeatable(
        command, "--env,-e", options.words,
        "NAME=VALUE for what is made here; NAME: as it is in our environment, so that a secret "
        "is in no argv; repeatable");
    add_repeatable(command, "--env-file", options.files, "such words, one a line; repeatable");
}

Result<Variables> variables_of(const EnvironmentOptions& options) {
    Variables variables;
    for (const std::string& path : options.files)
        TRY(add_file(variables, path));
    for (const std::string& word : options.words)
        TRY(add_variable(variables, word, "env"));
    return variables;
}

void add_unset_option(CLI::App* command, std::vector<std::string>& names) {
    add_repeatable(command, "--unset", names, "leave this variable out; repeatable");
}

void add_clear_option(CLI::App* command, bool& clear) {
    command->add_flag("--clear-env", clear, "start it without the sandbox's variables");
}

}  // namespace spore::cli
