#include "hypervisor/network/guest_side.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "hypervisor/network/layout.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"

namespace spore {

namespace net = network_layout;

namespace {

Result<UniqueFd> make_tap() {
    UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!tap)
        return fail_errno("/dev/net/tun");
    ifreq request = {};
    std::string_view(net::kTap).copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(tap.get(), TUNSETIFF, &request) != 0)
        return fail_errno(std::string("tap '") + net::kTap + "'");
    return tap;
}

Status quiet_sysctls() {
    // For interfaces to come, too.
    for (const char* name : {"ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"}) {
        auto off = set_sysctl(name, "1");
        if (!off && off.error().code != Code::not_found)  // a kernel without IPv6
            return off;
    }
    for (const char* name : {"ipv4/ip_forward", "ipv4/conf/all/rp_filter",
                             "ipv4/conf/default/rp_filter", "ipv4/conf/all/arp_ignore"})
        TRY(set_sysctl(name, "1"));
    for (const char* name :
         {"ipv4/conf/all/accept_redirects", "ipv4/conf/default/accept_redirects",
          "ipv4/conf/all/send_redirects", "ipv4/conf/default/send_redirects",
          "ipv4/conf/all/accept_source_route", "ipv4/conf/default/accept_source_route"})
        TRY(set_sysctl(name, "0"));
    return {};
}

}  // namespace

// Interfaces come and go with sandboxes, and while one does the kernel's list is none to rely on.
constexpr int kAddressTriesMax = 100;

Result<std::vector<uint32_t>> host_addresses() {
    auto found = TRY(RouteSocket::open()).addresses();
    for (int tries = 1;
         !found && found.error().code == Code::unavailable && tries < kAddressTriesMax; tries++)
        found = TRY(RouteSocket::open()).addresses();
    if (!found)
        return found;
    std::erase_if(*found, [](uint32_t address) {
        return std::ranges::any_of(
            never_ranges(), [&](const Ipv4Range& range) { return range.contains({address}); });
    });
    std::ranges::sort(*found);
    found->erase(std::ranges::unique(*found).begin(), found->end());
    return found;
}

Result<std::string> sandbox_rules(NetworkPolicy policy, const NetworkBounds& bounds) {
    policy.host = TRY(host_addresses());
    return tap_rules(bounds) + policy_rules(policy, bounds);
}

Result<UniqueFd> make_guest_side(const std::string& rules) {
    TRY(quiet_sysctls());
    auto tap = TRY(make_tap());
    TRY(run_nft(rules));
    auto route = TRY(RouteSocket::open());
    TRY(route.set_mac(net::kTap, net::kGatewayMac));
    TRY(route.add_address(net::kTap, TRY(parse_ipv4("gateway", net::kGatewayAddress)),
                          net::kGuestPrefixBits));
    TRY(route.set_up(net::kTap, true));
    TRY(route.add_neighbour(net::kTap, TRY(parse_ipv4("guest", net::kGuestAddress)),
                            net::kGuestMac));
    return tap;
}

const std::vector<std::string>& sandbox_tables() {
    static const std::vector<std::string> tables = {std::string("inet ") + net::kTable,
                                                    std::string("netdev ") + net::kTable};
    return tables;
}

Result<std::string> list_tables(const std::vector<std::string>& tables) {
    std::string text;
    for (const std::string& table : tables) {
        auto listed = list_table(table);
        if (!listed && listed.error().code != Code::not_found)
            return listed;
        text += listed ? *listed : "no table " + table + "\n";
    }
    return text;
}

std::string first_difference(const std::string& is, const std::string& should) {
    size_t at = 0;
    while (at < is.size() && at < should.size() && is[at] == should[at])
        at++;
    auto line_at = [at](const std::string& text) -> std::string {
        size_t begin = at == 0 ? 0 : text.rfind('\n', at - 1);
        begin = begin == std::string::npos ? 0 : begin == 0 && at == 0 ? 0 : begin + 1;
        std::string line = text.substr(begin, text.find('\n', at) - begin);
        size_t word = line.find_first_not_of("\t ");
        return word == std::string::npos ? "nothing" : "'" + line.substr(word) + "'";
    };
    return "the rules were changed by another: " + line_at(is) + " where " + line_at(should) +
           " was";
}

}  // namespace spore
