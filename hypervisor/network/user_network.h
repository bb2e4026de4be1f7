#pragma once

// A sandbox's network (sandbox_network.h) where Spore may make none on the host: in a user and a
// network namespace that whoever runs Spore can make, with the same tap and the same rules. What
// leaves it goes by pasta, passt's form for namespaces, which is a process outside with sockets
// of the user's:
//
//   guest eth0 198.18.0.2 ── tap0 │ namespace: NAT, rules │ up0 198.19.0.2 ── pasta ── sockets
//
//   DIRECTORY/passt/rules     what was loaded last
//   DIRECTORY/passt/listing   how nft prints that
//   DIRECTORY/passt/socket    the keeper's
//
// The *keeper* (spore network-keeper) is what pasta was started with: PID 1 of a PID namespace,
// with no right but that over its network. It makes the tap, hands it out once, and changes and
// lists rules when asked. It ends when the tap is gone, which is when the VM is, and pasta with
// it; it dies with pasta, and the tap with it. So whoever is killed, nothing stays.
//
// The gate is up0: down, nothing passes. What is less than on a host's own links: there is no
// second rule set behind the first, and an address that the host gets after the rules were loaded
// is not refused until they are loaded again; inspect_network() tells that.

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/network/policy.h"
#include "hypervisor/network/rules.h"

namespace spore {

struct NetworkReport;

// What this host lacks for it, and the command that helps. Errors: host_unsupported.
Status check_user_network();

// pasta's command line but for the program that it starts. Errors: host_unsupported (no pasta).
Result<std::vector<std::string>> pasta_arguments();

// Before the keeper is started: its directory and the rules that it is to load.
Status prepare_user_network(const std::filesystem::path& directory, const NetworkPolicy& policy,
                            const NetworkBounds& bounds = {});
// The keeper itself, in the clone's directory, which is its working directory. When all that it
// needs is open it calls `shut_in`; writes one line to `ready` (tell_ready) when it can be asked;
// until the tap is gone.
Status keep_user_network(int ready, const std::function<Status()>& shut_in);
// From a keeper that is ready: the tap, once. The gate is closed.
Result<UniqueFd> take_user_tap(const std::filesystem::path& directory);

bool has_user_network(const std::filesystem::path& directory);
// Has the process, which has one thread, enter both namespaces.
Status enter_user_network(const std::filesystem::path& directory);
// As those of sandbox_network.h, which call these.
Status apply_user_policy(const std::filesystem::path& directory, const NetworkPolicy& policy,
                         const NetworkBounds& bounds);
Status remove_user_network(const std::filesystem::path& directory);
Result<NetworkReport> inspect_user_network(const std::filesystem::path& directory);

}  // namespace spore
