#pragma once

// What the commands that give a sandbox a network have in common.

#include "hypervisor/cli/commands.h"
#include "hypervisor/network/policy.h"
#include "hypervisor/sandbox/record.h"

namespace spore::cli {

// --network, --allow, --deny and --dns.
void add_network_options(CLI::App* command, NetworkWords& words);

// Of a sandbox, as `list --json` has it: null without a card; {"mode", "allow", "deny", "dns"}, and
// what is found on the host: {"link", "address", "open", "intact", "why"}.
nlohmann::json network_of(const SandboxRecord& record, const std::filesystem::path& directory);

}  // namespace spore::cli
