#pragma once

// What every network of a sandbox has in its namespace, on the guest's side, whoever made that.
// Nobody but hypervisor/network includes this.

#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/network/rules.h"

namespace spore {

// Every address of the host's but those that no sandbox reaches anyway.
Result<std::vector<uint32_t>> host_addresses();

// Both rule sets of a sandbox's namespace, as they are to be on this host.
Result<std::string> sandbox_rules(NetworkPolicy policy, const NetworkBounds& bounds);

// In the calling thread's namespace: IPv6 off, the tap there with `rules` loaded, and then up.
Result<UniqueFd> make_guest_side(const std::string& rules);

// The tables that sandbox_rules() loads, as nft prints them; one that is not there is said so.
const std::vector<std::string>& sandbox_tables();
Result<std::string> list_tables(const std::vector<std::string>& tables);

// "the rules were changed by another: ..."; `is` and `should` differ.
std::string first_difference(const std::string& is, const std::string& should);

}  // namespace spore
