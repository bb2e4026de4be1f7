#pragma once

// What a sandbox may reach.
//
//   none    nothing
//   egress  what --allow names; without any, every public address
//   open    private addresses of the networks around the host as well
//
// and in all of them nothing that --deny names, no other sandbox, none of the host's own addresses,
// no link-local or metadata address, and nobody reaches the sandbox. IPv6 is off.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

enum class NetworkMode { none, egress, open };
std::string_view mode_name(NetworkMode mode);
// Errors: invalid_argument.
Result<NetworkMode> parse_mode(std::string_view text);

// Addresses that have their first `prefix_bits` in common; in host order, the others are 0.
struct Ipv4Range {
    uint32_t address = 0;
    uint8_t prefix_bits = 32;

    uint32_t mask() const { return prefix_bits == 0 ? 0 : ~uint32_t{0} << (32 - prefix_bits); }
    uint32_t last() const { return address | ~mask(); }
    bool contains(const Ipv4Range& other) const {
        return other.address >= address && other.last() <= last();
    }
    bool overlaps(const Ipv4Range& other) const {
        return other.address <= last() && address <= other.last();
    }
    bool operator==(const Ipv4Range&) const = default;
    std::string text() const;  // "10.0.0.0/8", "192.0.2.1"
};

// "192.0.2.1". Errors: invalid_argument, naming `what` and the text.
Result<uint32_t> parse_ipv4(std::string_view what, std::string_view text);
std::string ipv4_text(uint32_t address);

// One --allow or --deny: "CIDR", "CIDR:PORT", "NAME", "*.NAME", "NAME:PORT".
struct NetworkRule {
    Ipv4Range range;      // if `domain` is empty
    std::string domain;   // in lower case, without the "*."
    bool below = false;   // the names below `domain`, and not itself
    uint16_t port = 0;    // TCP and UDP; 0: all
    std::string written;  // as the user wrote it
};

// Errors: invalid_argument, naming `what` ("allow", "deny"), the text and what is wrong.
Result<NetworkRule> parse_rule(std::string_view what, std::string_view text);

struct NetworkPolicy {
    NetworkMode mode = NetworkMode::none;
    std::vector<NetworkRule> allow;
    std::vector<NetworkRule> deny;
    uint32_t dns = 0;  // the server that questions go to; 0: none can be reached
    // The host's own addresses, which the host's rules guard: once more, should those be flushed.
    std::vector<uint32_t> host;

    bool names_domains() const;
};

// As words of a command line, and of a sandbox's record.
struct NetworkWords {
    std::string mode = "none";
    std::vector<std::string> allow;
    std::vector<std::string> deny;
    std::string dns;  // empty: the host's own

    // All of them, in one line; of words that parse_policy() takes no two have the same.
    std::string line() const;
};

// Each rule, and all together: overlaps, rules that could do nothing, addresses that no rule opens.
// `dns` stays 0 if `words.dns` is empty. Errors: invalid_argument.
Result<NetworkPolicy> parse_policy(const NetworkWords& words);

// Addresses that no sandbox reaches, and those that only a rule or the mode `open` opens.
const std::vector<Ipv4Range>& never_ranges();
const std::vector<Ipv4Range>& private_ranges();

// The first nameserver in a resolv.conf that is not on the loopback; 0: there is none.
uint32_t nameserver_in(std::string_view resolv_conf);
// The host's: from /run/systemd/resolve/resolv.conf or /etc/resolv.conf; 0: none can be reached.
uint32_t host_nameserver();

}  // namespace spore
