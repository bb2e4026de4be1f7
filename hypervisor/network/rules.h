#pragma once

// The rule sets, as nft(8) reads them. Each is loaded in one transaction: what was there before is
// gone when it holds, and stays if it is refused.

#include <cstdint>
#include <string>

#include "hypervisor/base/network_limits.h"
#include "hypervisor/network/policy.h"

namespace spore {

// What one sandbox can take from the host; tests have smaller ones.
struct NetworkBounds {
    uint32_t connections = limits::kConnectionsMax;
    uint32_t connections_per_second = limits::kConnectionsPerSecondMax;
    uint32_t connections_burst = limits::kConnectionsBurstMax;
    uint32_t frames_per_second = limits::kFramesPerSecondMax;
};

// In a sandbox's namespace: which connections the guest may begin, and their NAT. Everything else
// is dropped, or refused where the guest's programs would wait for nothing otherwise.
std::string policy_rules(const NetworkPolicy& policy, const NetworkBounds& bounds = {});

// In a sandbox's namespace, where frames come in from the guest: nothing but IPv4 and ARP about
// itself under its own addresses.
std::string tap_rules(const NetworkBounds& bounds = {});

// On the host: from a sandbox's link to another network and nowhere else.
std::string host_rules();

}  // namespace spore
