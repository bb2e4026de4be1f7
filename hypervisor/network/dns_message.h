#pragma once

// DNS messages (RFC 1035), as much as a resolver needs that answers for addresses of a few names.
// UNTRUSTED BYTES: questions are the guest's, answers come over the network. Fuzz target:
// fuzz-dns-message.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

inline constexpr uint16_t kDnsTypeA = 1;

struct DnsQuestion {
    uint16_t id = 0;
    bool recursion_desired = false;
    std::string name;  // in lower case, without the last dot; of what a rule's name can have
    uint16_t type = 0;
};

struct DnsAddress {
    uint32_t address = 0;
    uint32_t ttl_seconds = 0;  // the least of its own and those of the names on the way to it
};

enum class DnsStatus : uint8_t { ok = 0, malformed = 1, failed = 2, no_such_name = 3, refused = 5 };

struct DnsAnswer {
    DnsStatus status = DnsStatus::failed;
    std::vector<DnsAddress> addresses;
};

// A query with one question of class IN. Errors: invalid_argument, also for names that have other
// bytes than a rule can name; nobody is to be answered then.
Result<DnsQuestion> parse_question(std::span<const std::byte> message);
// The query for the addresses of `question.name`, under another ID.
std::vector<std::byte> make_query(const DnsQuestion& question, uint16_t id);
// The answer to make_query(): nothing if it is none to that, or makes no sense.
std::optional<DnsAnswer> parse_answer(std::span<const std::byte> message,
                                      const DnsQuestion& question, uint16_t id);
// What the guest gets: no more than limits::kDnsAddressesMax addresses, which fits 512 bytes.
std::vector<std::byte> make_answer(const DnsQuestion& question, const DnsAnswer& answer);

}  // namespace spore
