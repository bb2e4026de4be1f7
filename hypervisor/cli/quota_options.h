#pragma once

// The options that say what a sandbox may use, of `spore create` and `spore update`.

#include <CLI/CLI.hpp>

#include "hypervisor/cli/output.h"
#include "hypervisor/sandbox/cgroup_quotas.h"
#include "hypervisor/sandbox/quotas.h"

namespace spore::cli {

void add_quota_options(CLI::App& command, QuotaWords& words);
// As they would be given again; null: no limit.
nlohmann::json quotas_json(const Quotas& quotas);
// Tells, on stderr, which limits this host does not hold.
void warn_unenforced(const std::string& id, const std::vector<Unenforced>& unenforced);
nlohmann::json unenforced_json(const std::vector<Unenforced>& unenforced);
// "0.5"
std::string cpus_text(uint64_t millis);

}  // namespace spore::cli
