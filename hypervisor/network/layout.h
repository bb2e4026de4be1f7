#pragma once

// Names and addresses of sandboxes' networks. Inside, all sandboxes are alike, so that a template's
// snapshot carries a network that is right in every clone; outside each has a link of its own:
//
//   guest eth0 198.18.0.2 ── tap0 198.18.0.1 │ namespace │ up0 198.19.x.y+1 ── spore-N 198.19.x.y
//                                            (NAT, rules)                     host (NAT, rules)
//
// 198.18.0.0/15 is for benchmarks of networks (RFC 2544), so it is in nobody's way; whatever else
// uses it, sandboxes cannot reach it.

#include <cstdint>

namespace spore::network_layout {

inline constexpr const char* kGuestMac = "02:53:50:52:00:02";
inline constexpr const char* kGatewayMac = "02:53:50:52:00:01";
inline constexpr const char* kGuestAddress = "198.18.0.2";
inline constexpr const char* kGatewayAddress = "198.18.0.1";  // also its DNS server
inline constexpr uint8_t kGuestPrefixBits = 30;

// In the sandbox's namespace.
inline constexpr const char* kTap = "tap0";
inline constexpr const char* kUplink = "up0";
// On the host: "spore-N", whose addresses are the even one and, inside, the odd one behind it.
inline constexpr const char* kLinkPrefix = "spore-";
inline constexpr uint32_t kLinksBase = 0xc6130000;  // 198.19.0.0
inline constexpr const char* kLinksRange = "198.19.0.0/16";

// Where a namespace is a user's own (user_network.h), pasta is behind its up0; all have the same.
inline constexpr const char* kUserAddress = "198.19.0.2";
inline constexpr const char* kUserGateway = "198.19.0.1";
inline constexpr const char* kUserPrefixBits = "30";

inline constexpr const char* kTable = "spore";           // in a sandbox's namespace
inline constexpr const char* kHostTable = "spore_host";  // on the host

// The namespaces of all sandboxes of this host (sandbox_network.h).
inline constexpr const char* kDirectory = "/run/spore-network";

}  // namespace spore::network_layout
