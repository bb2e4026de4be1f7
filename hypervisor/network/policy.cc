#include "hypervisor/network/policy.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>

#include "hypervisor/base/network_limits.h"

namespace spore {

namespace {

constexpr uint32_t ip(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return a << 24 | b << 16 | c << 8 | d;
}

std::unexpected<Error> invalid(std::string_view what, std::string_view text,
                               const std::string& why) {
    constexpr size_t kShown = 80;
    std::string shown(text.substr(0, kShown));
    if (text.size() > kShown)
        shown += "...";
    return fail(Code::invalid_argument, std::string(what) + " '" + shown + "': " + why);
}

template <typename T>
bool parse_whole(std::string_view text, T& number) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && end == text.data() + text.size();
}

Result<uint16_t> parse_port(std::string_view what, std::string_view whole, std::string_view text) {
    uint32_t port = 0;
    if (!parse_whole(text, port) || port < 1 || port > 65535)
        return invalid(what, whole,
                       "port '" + std::string(text) + "' must be a number from 1 to 65535");
    return static_cast<uint16_t>(port);
}

Result<Ipv4Range> parse_range(std::string_view what, std::string_view whole,
                              std::string_view text) {
    size_t slash = text.find('/');
    Ipv4Range range;
    range.address = TRY(parse_ipv4(what, text.substr(0, slash)));
    if (slash != std::string_view::npos) {
        uint32_t bits = 0;
        if (!parse_whole(text.substr(slash + 1), bits) || bits > 32)
            return invalid(what, whole, "the bits behind '/' must be a number from 0 to 32");
        range.prefix_bits = static_cast<uint8_t>(bits);
    }
    Ipv4Range meant{range.address & range.mask(), range.prefix_bits};
    if (meant.address != range.address)
        return invalid(what, whole,
                       "has bits behind its first " + std::to_string(range.prefix_bits) +
                           "; the range is " + meant.text());
    return range;
}

bool is_label(std::string_view label) {
    return !label.empty() && label.size() <= limits::kDomainLabelBytesMax && label.front() != '-' &&
           label.back() != '-' && std::ranges::all_of(label, [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
           });
}

Result<std::string> parse_domain(std::string_view what, std::string_view whole,
                                 std::string_view text) {
    std::string domain(text);
    std::ranges::transform(domain, domain.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    if (domain.ends_with('.'))
        domain.pop_back();
    if (domain.size() > limits::kDomainBytesMax)
        return invalid(what, whole,
                       "the name is " + std::to_string(domain.size()) + " bytes long, at most " +
                           std::to_string(limits::kDomainBytesMax));
    for (size_t from = 0; from <= domain.size();) {
        size_t dot = std::min(domain.find('.', from), domain.size());
        if (!is_label(std::string_view(domain).substr(from, dot - from)))
            return invalid(what, whole,
                           "is no address, and no name: its parts have 1 to " +
                               std::to_string(limits::kDomainLabelBytesMax) +
                               " of a-z, 0-9, '-' and '_'; a '*.' may stand in front");
        from = dot + 1;
    }
    return domain;
}

// Whether the text is meant as an address, right or wrong.
bool looks_like_address(std::string_view text) {
    return text.find_first_not_of("0123456789./") == std::string_view::npos;
}

bool same_names(const NetworkRule& one, const NetworkRule& other) {
    return one.domain == other.domain && one.below == other.below;
}

// Two of one list of which one says nothing that the other does not.
Status check_overlaps(std::string_view what, const std::vector<NetworkRule>& rules) {
    for (size_t second = 0; second < rules.size(); second++) {
        for (size_t first = 0; first < second; first++) {
            const NetworkRule &one = rules[first], &other = rules[second];
            if (one.domain.empty() != other.domain.empty() || one.port != other.port)
                continue;
            bool overlap =
                one.domain.empty() ? one.range.overlaps(other.range) : same_names(one, other);
            if (overlap)
                return invalid(what, other.written,
                               "overlaps '" + one.written + "'; leave one of them out");
        }
    }
    return {};
}

Status check_allowed(const NetworkRule& rule) {
    for (const Ipv4Range& never : never_ranges()) {
        if (rule.domain.empty() && never.contains(rule.range))
            return invalid("allow", rule.written,
                           "lies in " + never.text() + ", which no sandbox can reach");
    }
    return {};
}

Result<std::vector<NetworkRule>> parse_rules(std::string_view what,
                                             const std::vector<std::string>& words) {
    if (words.size() > limits::kNetworkRulesMax)
        return fail(Code::invalid_argument, std::string(what) + ": " +
                                                std::to_string(words.size()) + " rules, at most " +
                                                std::to_string(limits::kNetworkRulesMax));
    std::vector<NetworkRule> rules;
    for (const std::string& word : words)
        rules.push_back(TRY(parse_rule(what, word)));
    TRY(check_overlaps(what, rules));
    return rules;
}

bool has_domain(const std::vector<NetworkRule>& rules) {
    return std::ranges::any_of(rules, [](const auto& rule) { return !rule.domain.empty(); });
}

}  // namespace

std::string_view mode_name(NetworkMode mode) {
    switch (mode) {
        case NetworkMode::none:
            return "none";
        case NetworkMode::egress:
            return "egress";
        case NetworkMode::open:
            return "open";
    }
    return "unknown";
}

Result<NetworkMode> parse_mode(std::string_view text) {
    for (NetworkMode mode : {NetworkMode::none, NetworkMode::egress, NetworkMode::open}) {
        if (text == mode_name(mode))
            return mode;
    }
    return invalid("network", text, "must be none, egress or open");
}

std::string ipv4_text(uint32_t address) {
    in_addr network = {htonl(address)};
    char text[INET_ADDRSTRLEN];
    return ::inet_ntop(AF_INET, &network, text, sizeof(text));
}

std::string Ipv4Range::text() const {
    return ipv4_text(address) + (prefix_bits == 32 ? "" : "/" + std::to_string(prefix_bits));
}

Result<uint32_t> parse_ipv4(std::string_view what, std::string_view text) {
    in_addr address = {};
    if (::inet_pton(AF_INET, std::string(text).c_str(), &address) != 1)
        return invalid(what, text, "is not an IPv4 address, such as 192.0.2.1");
    return ntohl(address.s_addr);
}

Result<NetworkRule> parse_rule(std::string_view what, std::string_view text) {
    NetworkRule rule;
    rule.written = text;
    if (text.empty())
        return invalid(what, text, "is empty; must be CIDR, CIDR:PORT, NAME or *.NAME");
    size_t colon = text.find(':');
    if (colon != text.rfind(':'))
        return invalid(what, text, "IPv6 is off in sandboxes, so no rule is needed for it");
    std::string_view place = text.substr(0, colon);
    if (colon != std::string_view::npos)
        rule.port = TRY(parse_port(what, text, text.substr(colon + 1)));
    if (place.empty())
        return invalid(what, text, "has no address; 0.0.0.0/0 stands for all");
    if (looks_like_address(place)) {
        rule.range = TRY(parse_range(what, text, place));
        return rule;
    }
    rule.below = place.starts_with("*.");
    rule.domain = TRY(parse_domain(what, text, rule.below ? place.substr(2) : place));
    return rule;
}

std::string NetworkWords::line() const {
    std::string text = mode;
    for (const std::string& word : allow)
        text += " +" + word;
    for (const std::string& word : deny)
        text += " -" + word;
    return dns.empty() ? text : text + " @" + dns;
}

bool NetworkPolicy::names_domains() const {
    return has_domain(allow);
}

Result<NetworkPolicy> parse_policy(const NetworkWords& words) {
    NetworkPolicy policy;
    policy.mode = TRY(parse_mode(words.mode));
    policy.allow = TRY(parse_rules("allow", words.allow));
    policy.deny = TRY(parse_rules("deny", words.deny));
    if (!words.dns.empty())
        policy.dns = TRY(parse_ipv4("dns", words.dns));
    for (const Ipv4Range& never : never_ranges()) {
        if (policy.dns != 0 && never.contains({policy.dns, 32}))
            return invalid("dns", words.dns,
                           "lies in " + never.text() + ", which no sandbox can reach");
    }
    if (policy.mode == NetworkMode::none && !(policy.allow.empty() && policy.deny.empty()))
        return fail(Code::invalid_argument,
                    "network 'none': takes no --allow and no --deny; --network egress does");
    if (policy.mode == NetworkMode::open && !policy.allow.empty())
        return invalid("allow", policy.allow.front().written,
                       "network 'open' lets all of it through already; --network egress lets "
                       "through what is allowed");
    for (const NetworkRule& rule : policy.allow)
        TRY(check_allowed(rule));
    for (const NetworkRule& rule : policy.deny) {
        if (!rule.domain.empty() && !policy.names_domains())
            return invalid("deny", rule.written,
                           "a name can be denied only among names that are allowed: else a guest "
                           "that does not ask us reaches its addresses");
        if (!rule.domain.empty() && rule.port != 0)
            return invalid("deny", rule.written, "a name is denied with all of its ports");
    }
    return policy;
}

const std::vector<Ipv4Range>& never_ranges() {
    static const std::vector<Ipv4Range> ranges = {
        {ip(0, 0, 0, 0), 8},          {ip(127, 0, 0, 0), 8},
        {ip(169, 254, 0, 0), 16},      // link-local; the clouds' metadata is here
        {ip(100, 100, 100, 200), 32},  // Alibaba's
        {ip(168, 63, 129, 16), 32},    // Azure's host
        {ip(192, 0, 0, 192), 32},      // Oracle's
        {ip(198, 18, 0, 0), 15},       // other sandboxes
        {ip(224, 0, 0, 0), 3},         // multicast, reserved, broadcast
    };
    return ranges;
}

const std::vector<Ipv4Range>& private_ranges() {
    static const std::vector<Ipv4Range> ranges = {
        {ip(10, 0, 0, 0), 8},    {ip(172, 16, 0, 0), 12}, {ip(192, 168, 0, 0), 16},
        {ip(100, 64, 0, 0), 10}, {ip(192, 0, 0, 0), 24},
    };
    return ranges;
}

uint32_t nameserver_in(std::string_view resolv_conf) {
    while (!resolv_conf.empty()) {
        size_t end = resolv_conf.find('\n');
        std::string_view line = resolv_conf.substr(0, end);
        resolv_conf = end == std::string_view::npos ? "" : resolv_conf.substr(end + 1);
        constexpr std::string_view kKey = "nameserver";
        if (!line.starts_with(kKey))
            continue;
        line.remove_prefix(kKey.size());
        line = line.substr(std::min(line.find_first_not_of(" \t"), line.size()));
        line = line.substr(0, line.find_first_of(" \t\r#;"));
        auto address = parse_ipv4("nameserver", line);
        if (address && std::ranges::none_of(never_ranges(), [&](const Ipv4Range& never) {
                return never.contains({*address, 32});
            }))
            return *address;
    }
    return 0;
}

uint32_t host_nameserver() {
    // The second names a stub on the loopback where the first one is.
    for (const char* path : {"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"}) {
        std::ifstream file(path);
        std::string text{std::istreambuf_iterator<char>(file), {}};
        if (uint32_t address = nameserver_in(text); address != 0)
            return address;
    }
    return 0;
}

}  // namespace spore
