#pragma once

// Limits of sandboxes' networks: what one of them can ask for, and what it can take from the host.

#include <cstddef>
#include <cstdint>

namespace spore::limits {

// Rules of one sandbox, allow and deny each. All are in sets, so a packet's cost does not grow with
// them; loading them does.
inline constexpr size_t kNetworkRulesMax = 256;

// RFC 1035 §2.3.4: a name without its last dot, and one label of it.
inline constexpr size_t kDomainBytesMax = 253;
inline constexpr size_t kDomainLabelBytesMax = 63;

// Sandboxes with a network at once: each takes two addresses of 198.19.0.0/16.
inline constexpr uint32_t kNetworkLinksMax = 32768;
// Links whose number is tried before giving up; they are drawn at random.
inline constexpr int kNetworkLinkTriesMax = 64;

// Connections of one sandbox at once. Each takes an entry of its namespace's table and one of the
// host's, which has room for 262,144 by default: 256 sandboxes that do their worst.
inline constexpr uint32_t kConnectionsMax = 1024;
// Connections begun in a second, and in a burst.
inline constexpr uint32_t kConnectionsPerSecondMax = 500;
inline constexpr uint32_t kConnectionsBurstMax = 1000;
// Frames from the guest in a second: what keeps it from taking a CPU of the host's with small ones.
// A frame may hold 64 KiB, so no throughput is bounded by it.
inline constexpr uint32_t kFramesPerSecondMax = 200'000;
// Questions to the resolver, and refusals told to the guest, in a second.
inline constexpr uint32_t kRepliesPerSecondMax = 100;

// Of an address that our resolver has given out: for how long it is open at most, whatever its
// TTL says, and at least, so that whoever has asked gets to use it.
inline constexpr uint32_t kDnsTtlSecondsMax = 300;
inline constexpr uint32_t kDnsOpenSecondsMin = 5;
// Addresses in an answer: with a name of kDomainBytesMax it is within RFC 1035's 512 bytes
// (§4.2.1).
inline constexpr uint32_t kDnsAddressesMax = 14;
// Addresses that it holds open at once for one sandbox.
inline constexpr size_t kDnsOpenMax = 4096;
// Questions that the resolver of one sandbox waits for at once, and how long for each.
inline constexpr uint32_t kDnsPendingMax = 64;
inline constexpr int kDnsWaitMs = 5000;

// What runs for one sandbox's network beside its VM. Each has one thread that works, so more than
// one processor is none's; with less than the least, a change of rules takes seconds. Sockets'
// buffers are in passt's memory: kConnectionsMax with some 200 KiB each.
inline constexpr uint32_t kHelperCpuMillisMin = 250;
inline constexpr uint32_t kHelperCpuMillisMax = 1000;
inline constexpr uint64_t kPasstMemoryBytes = 256u << 20;
inline constexpr uint64_t kResolverMemoryBytes = 64u << 20;
inline constexpr uint64_t kHelperTasksMax = 64;

static_assert(12 + kDomainBytesMax + 2 + 4 + 16 * kDnsAddressesMax <= 512);
static_assert(kConnectionsBurstMax <= kConnectionsMax);
static_assert(uint64_t{kNetworkLinksMax} * 2 == uint64_t{1} << 16);

}  // namespace spore::limits
