#include "hypervisor/network/rules.h"

#include <algorithm>

#include "hypervisor/network/layout.h"

namespace spore {

namespace {

namespace net = network_layout;

std::string quoted(const char* name) {
    return std::string("\"") + name + "\"";
}

// "table inet spore { ... }", in place of one that may be there.
std::string replace_table(const std::string& family, const char* name, const std::string& body) {
    std::string table = "table " + family + " " + name;
    return table + "\ndelete " + table + "\n" + table + " {\n" + body + "}\n";
}

std::string set_of(const std::vector<Ipv4Range>& ranges) {
    std::string text;
    for (const Ipv4Range& range : ranges)
        text += (text.empty() ? "{ " : ", ") + range.text();
    return text + " }";
}

bool is_private(const NetworkRule& rule) {
    return std::ranges::any_of(private_ranges(),
                               [&](const Ipv4Range& range) { return range.contains(rule.range); });
}

// Rules that match what `rules` names by address, and then do `verdict`.
std::string matches(const std::vector<NetworkRule>& rules, const std::string& verdict) {
    std::vector<Ipv4Range> whole;
    std::string ports;
    for (const NetworkRule& rule : rules) {
        if (!rule.domain.empty())
            continue;
        if (rule.port == 0)
            whole.push_back(rule.range);
        else
            ports += (ports.empty() ? "{ " : ", ") + rule.range.text() + " . " +
                     std::to_string(rule.port);
    }
    std::string text;
    if (!whole.empty())
        text += "    ip daddr " + set_of(whole) + " " + verdict + "\n";
    if (!ports.empty())
        text +=
            "    meta l4proto { tcp, udp } ip daddr . th dport " + ports + " } " + verdict + "\n";
    return text;
}

std::string per_second(uint32_t rate, uint32_t burst) {
    return std::to_string(rate) + "/second burst " + std::to_string(burst) + " packets";
}

// What becomes of a connection that the guest begins.
std::string new_connection(const NetworkPolicy& policy) {
    if (policy.mode == NetworkMode::none)
        return "    goto refused\n";
    std::vector<NetworkRule> near, far;
    for (const NetworkRule& rule : policy.allow)
        (is_private(rule) ? near : far).push_back(rule);
    std::string text;
    // Our DNS: the nat chain has sent it to the server, wherever that is.
    if (policy.dns != 0 && policy.allow.empty())
        text += "    ct status dnat ip daddr " + ipv4_text(policy.dns) +
                " meta l4proto { tcp, udp } th dport 53 goto accepted\n";
    text += "    ip daddr " + set_of(never_ranges()) + " goto refused\n";
    std::vector<Ipv4Range> host;
    for (uint32_t address : policy.host)
        host.push_back({address, 32});
    if (!host.empty())
        text += "    ip daddr " + set_of(host) + " goto refused\n";
    text += matches(policy.deny, "goto refused");
    text += matches(near, "goto accepted");
    if (policy.mode != NetworkMode::open)
        text += "    ip daddr " + set_of(private_ranges()) + " goto refused\n";
    if (policy.allow.empty())
        return text + "    goto accepted\n";
    text += matches(far, "goto accepted");
    if (policy.names_domains())
        text +=
            "    ip daddr @names goto accepted\n"
            "    meta l4proto { tcp, udp } ip daddr . th dport @names_ports goto accepted\n";
    return text + "    goto refused\n";
}

}  // namespace

std::string policy_rules(const NetworkPolicy& policy, const NetworkBounds& bounds) {
    const std::string tap = quoted(net::kTap), up = quoted(net::kUplink);
    const std::string replies =
        per_second(limits::kRepliesPerSecondMax, limits::kRepliesPerSecondMax);
    std::string body;
    // Filled by the resolver, an element for each answer, for its TTL.
    if (policy.names_domains())
        body +=
            "  set names { type ipv4_addr; flags timeout; }\n"
            "  set names_ports { type ipv4_addr . inet_service; flags timeout; }\n";
    body +=
        "  chain forward {\n"
        "    type filter hook forward priority filter; policy drop;\n"
        "    iifname " +
        up + " oifname " + tap +
        " ct state established,related accept\n"
        "    iifname != " +
        tap +
        " drop\n"
        "    oifname != " +
        up +
        " drop\n"
        "    ct state established,related accept\n"
        "    ct state != new drop\n"
        "    ct state new limit rate over " +
        per_second(bounds.connections_per_second, bounds.connections_burst) +
        " drop\n"
        "    meta l4proto != { tcp, udp, icmp } goto refused\n"
        "    meta l4proto icmp icmp type != echo-request drop\n" +
        new_connection(policy) +
        "  }\n"
        "  chain accepted {\n"
        "    ct count over " +
        std::to_string(bounds.connections) +
        " drop\n"
        "    accept\n"
        "  }\n"
        "  chain refused {\n"
        "    limit rate " +
        replies +
        " reject with icmpx admin-prohibited\n"
        "    drop\n"
        "  }\n"
        "  chain input {\n"
        "    type filter hook input priority filter; policy drop;\n"
        "    iifname \"lo\" accept\n"
        "    iifname " +
        up + " ct state established accept\n";
    if (policy.names_domains())
        body += "    iifname " + tap + " ip daddr " + net::kGatewayAddress +
                " meta l4proto { tcp, udp } th dport 53 ct count over 64 drop\n"
                "    iifname " +
                tap + " ip daddr " + net::kGatewayAddress + " udp dport 53 limit rate " + replies +
                " accept\n";
    body += "    iifname " + tap + " ip daddr " + net::kGatewayAddress +
            " icmp type echo-request limit rate " + replies +
            " accept\n"
            "    iifname " +
            tap +
            " goto refused\n"
            "  }\n"
            "  chain source {\n"
            "    type nat hook postrouting priority srcnat;\n"
            "    oifname " +
            up +
            // Where passt is behind it (user_network.h), lower ones are root's.
            " meta l4proto { tcp, udp } masquerade to :1024-65535\n"
            "    oifname " +
            up +
            " masquerade\n"
            "  }\n";
    if (policy.mode != NetworkMode::none && policy.dns != 0 && policy.allow.empty())
        body +=
            "  chain dns {\n"
            "    type nat hook prerouting priority dstnat;\n"
            "    iifname " +
            tap + " ip daddr " + net::kGatewayAddress +
            " meta l4proto { tcp, udp } th dport 53 dnat ip to " + ipv4_text(policy.dns) +
            "\n"
            "  }\n";
    return replace_table("inet", net::kTable, body);
}

std::string tap_rules(const NetworkBounds& bounds) {
    std::string mac = net::kGuestMac, guest = net::kGuestAddress, gateway = net::kGatewayAddress;
    std::string body =
        "  chain guest {\n"
        "    type filter hook ingress device " +
        quoted(net::kTap) +
        " priority filter; policy drop;\n"
        "    ether saddr != " +
        mac +
        " drop\n"
        "    limit rate over " +
        per_second(bounds.frames_per_second, bounds.frames_per_second) +
        " drop\n"
        "    ip saddr " +
        guest +
        " udp sport 68 drop\n"
        "    ip saddr " +
        guest +
        " accept\n"
        "    arp htype 1 arp ptype ip arp operation { request, reply } arp saddr ether " +
        mac + " arp saddr ip " + guest + " arp daddr ip " + gateway +
        " accept\n"
        "  }\n";
    return replace_table("netdev", net::kTable, body);
}

std::string host_rules() {
    const std::string link = "\"" + std::string(net::kLinkPrefix) + "*\"", range = net::kLinksRange;
    // Before the filters of others, and it only takes away: what they refuse stays refused.
    std::string body =
        "  chain input {\n"
        "    type filter hook input priority filter - 10;\n"
        "    iifname " +
        link +
        " drop\n"
        "  }\n"
        "  chain forward {\n"
        "    type filter hook forward priority filter - 10;\n"
        "    iifname " +
        link + " oifname " + link +
        " drop\n"
        "    iifname " +
        link + " ip saddr != " + range +
        " drop\n"
        "    iifname " +
        link +
        " meta nfproto != ipv4 drop\n"
        // A port of the host's that leads somewhere is a service of the host's.
        "    iifname " +
        link +
        " ct status dnat drop\n"
        "    iifname " +
        link + " ip daddr " + set_of(never_ranges()) +
        " drop\n"
        "    oifname " +
        link +
        " ct state != { established, related } drop\n"
        "    ip daddr " +
        range + " oifname != " + link +
        " drop\n"
        "  }\n"
        "  chain source {\n"
        "    type nat hook postrouting priority srcnat;\n"
        "    ip saddr " +
        range + " oifname != " + link +
        " masquerade\n"
        "  }\n";
    return replace_table("inet", net::kHostTable, body);
}

}  // namespace spore
