#pragma once

// What the commands of `spore process` have in common.

#include "hypervisor/cli/commands.h"
#include "hypervisor/sandbox/agent_process.h"

namespace spore::cli {

// Which process of which sandbox.
struct ProcessWords {
    std::string sandbox;
    std::string process;
};

// A subcommand about one process; `words` must live as long as it.
CLI::App* add_process_command(CLI::App& group, ProcessWords& words, const char* name,
                              const char* what);

nlohmann::json end_json(const ExecResult& end);
// "running", "exited with 3"
std::string state_words(const ProcessStatus& process);

// logs, wait, wait-port, wait-log
void add_process_waits(CLI::App& group, Context& context);

}  // namespace spore::cli
