#include "hypervisor/network/route_socket.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <sys/socket.h>

#include <optional>

namespace spore {

namespace {

constexpr size_t kMessageBytes = 1024;

// A message being written: its header, then `Payload`.
template <typename Payload>
struct Message {
    alignas(nlmsghdr) char buffer[kMessageBytes] = {};
    nlmsghdr* header;
    Payload* payload;

    Message(uint16_t type, uint16_t flags) {
        header = ::mnl_nlmsg_put_header(buffer);
        header->nlmsg_type = type;
        header->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
        payload = static_cast<Payload*>(::mnl_nlmsg_put_extra_header(header, sizeof(Payload)));
    }
};

Result<UniqueFd> open_netlink(int protocol) {
    UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (!socket)
        return fail_errno("netlink");
    return socket;
}

// Sends it and waits for its acknowledgement; 0 or a positive errno.
Result<int> send_and_wait(int socket, nlmsghdr* message, uint32_t sequence) {
    message->nlmsg_seq = sequence;
    sockaddr_nl kernel = {};
    kernel.nl_family = AF_NETLINK;
    if (::sendto(socket, message, message->nlmsg_len, 0, reinterpret_cast<sockaddr*>(&kernel),
                 sizeof(kernel)) < 0)
        return fail_errno("netlink");
    for (;;) {
        alignas(nlmsghdr) char buffer[8192];
        ssize_t got = ::recv(socket, buffer, sizeof(buffer), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_errno("netlink");
        auto left = static_cast<int>(got);
        for (auto* part = reinterpret_cast<nlmsghdr*>(buffer); ::mnl_nlmsg_ok(part, left);
             part = ::mnl_nlmsg_next(part, &left)) {
            if (part->nlmsg_type == NLMSG_ERROR && part->nlmsg_seq == sequence)
                return -static_cast<nlmsgerr*>(::mnl_nlmsg_get_payload(part))->error;
        }
    }
}

Result<int> index_of(const std::string& name) {
    unsigned index = ::if_nametoindex(name.c_str());
    if (index == 0)
        return fail_errno("interface '" + name + "'");
    return static_cast<int>(index);
}

Result<ether_addr> mac_of(const std::string& text) {
    ether_addr mac = {};
    if (::ether_aton_r(text.c_str(), &mac) == nullptr)
        return fail(Code::invalid_argument, "MAC address '" + text + "': must be six bytes");
    return mac;
}

}  // namespace

Result<RouteSocket> RouteSocket::open() {
    return RouteSocket(TRY(open_netlink(NETLINK_ROUTE)));
}

Status RouteSocket::exchange(nlmsghdr* message, const std::string& what) {
    int error = TRY(send_and_wait(socket_.get(), message, ++sequence_));
    if (error != 0)
        return fail_errno(what, error);
    return {};
}

Status RouteSocket::make_pair(const std::string& name, const std::string& peer,
                              int peer_namespace) {
    Message<ifinfomsg> message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    nlmsghdr* header = message.header;
    ::mnl_attr_put_strz(header, IFLA_IFNAME, name.c_str());
    nlattr* info = ::mnl_attr_nest_start(header, IFLA_LINKINFO);
    ::mnl_attr_put_strz(header, IFLA_INFO_KIND, "veth");
    nlattr* data = ::mnl_attr_nest_start(header, IFLA_INFO_DATA);
    nlattr* other = ::mnl_attr_nest_start(header, VETH_INFO_PEER);
    ::mnl_nlmsg_put_extra_header(header, sizeof(ifinfomsg));
    ::mnl_attr_put_strz(header, IFLA_IFNAME, peer.c_str());
    ::mnl_attr_put_u32(header, IFLA_NET_NS_FD, static_cast<uint32_t>(peer_namespace));
    ::mnl_attr_nest_end(header, other);
    ::mnl_attr_nest_end(header, data);
    ::mnl_attr_nest_end(header, info);
    return exchange(header, "making the interfaces " + name + " and " + peer);
}

Status RouteSocket::set_up(const std::string& name, bool up) {
    Message<ifinfomsg> message(RTM_NEWLINK, 0);
    message.payload->ifi_change = IFF_UP;
    message.payload->ifi_flags = up ? unsigned{IFF_UP} : 0;
    // By its name: asking for its number would be another socket, and this is on a request's path.
    ::mnl_attr_put_strz(message.header, IFLA_IFNAME, name.c_str());
    return exchange(message.header, std::string("interface '") + name + (up ? "': up" : "': down"));
}

Status RouteSocket::set_mac(const std::string& name, const std::string& mac) {
    ether_addr bytes = TRY(mac_of(mac));
    Message<ifinfomsg> message(RTM_NEWLINK, 0);
    message.payload->ifi_index = TRY(index_of(name));
    ::mnl_attr_put(message.header, IFLA_ADDRESS, sizeof(bytes), &bytes);
    return exchange(message.header, "interface '" + name + "': MAC address " + mac);
}

Status RouteSocket::add_address(const std::string& name, uint32_t address, uint8_t prefix_bits) {
    Message<ifaddrmsg> message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
    message.payload->ifa_family = AF_INET;
    message.payload->ifa_prefixlen = prefix_bits;
    message.payload->ifa_index = static_cast<uint32_t>(TRY(index_of(name)));
    ::mnl_attr_put_u32(message.header, IFA_LOCAL, htonl(address));
    ::mnl_attr_put_u32(message.header, IFA_ADDRESS, htonl(address));
    return exchange(message.header, "interface '" + name + "': its address");
}

Status RouteSocket::add_neighbour(const std::string& name, uint32_t address,
                                  const std::string& mac) {
    ether_addr bytes = TRY(mac_of(mac));
    Message<ndmsg> message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
    message.payload->ndm_family = AF_INET;
    message.payload->ndm_ifindex = TRY(index_of(name));
    message.payload->ndm_state = NUD_PERMANENT;
    ::mnl_attr_put_u32(message.header, NDA_DST, htonl(address));
    ::mnl_attr_put(message.header, NDA_LLADDR, sizeof(bytes), &bytes);
    return exchange(message.header, "interface '" + name + "': its neighbour");
}

Status RouteSocket::add_default_route(uint32_t gateway) {
    Message<rtmsg> message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
    message.payload->rtm_family = AF_INET;
    message.payload->rtm_table = RT_TABLE_MAIN;
    message.payload->rtm_protocol = RTPROT_STATIC;
    message.payload->rtm_scope = RT_SCOPE_UNIVERSE;
    message.payload->rtm_type = RTN_UNICAST;
    ::mnl_attr_put_u32(message.header, RTA_GATEWAY, htonl(gateway));
    return exchange(message.header, "the default route");
}

Status RouteSocket::remove(const std::string& name) {
    Message<ifinfomsg> message(RTM_DELLINK, 0);
    message.payload->ifi_index = TRY(index_of(name));
    return exchange(message.header, "removing interface '" + name + "'");
}

namespace {

Status keep_address(const nlmsghdr* part, std::vector<uint32_t>& found) {
    auto keep = [](const nlattr* attribute, void* addresses) {
        if (::mnl_attr_get_type(attribute) == IFA_LOCAL &&
            ::mnl_attr_validate(attribute, MNL_TYPE_U32) >= 0)
            static_cast<std::vector<uint32_t>*>(addresses)->push_back(
                ntohl(::mnl_attr_get_u32(attribute)));
        return MNL_CB_OK;
    };
    if (::mnl_attr_parse(part, sizeof(ifaddrmsg), keep, &found) < 0)
        return fail_errno("the host's addresses");
    return {};
}

}  // namespace

Result<std::vector<uint32_t>> RouteSocket::addresses() {
    Message<ifaddrmsg> message(RTM_GETADDR, 0);
    message.header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.header->nlmsg_seq = ++sequence_;
    message.payload->ifa_family = AF_INET;
    if (::send(socket_.get(), message.header, message.header->nlmsg_len, 0) < 0)
        return fail_errno("the host's addresses");
    std::vector<uint32_t> found;
    for (;;) {
        alignas(nlmsghdr) char buffer[32768];  // the most that the kernel writes at once
        ssize_t got = ::recv(socket_.get(), buffer, sizeof(buffer), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_errno("the host's addresses");
        auto left = static_cast<int>(got);
        for (auto* part = reinterpret_cast<nlmsghdr*>(buffer); ::mnl_nlmsg_ok(part, left);
             part = ::mnl_nlmsg_next(part, &left)) {
            // Changed while they were told, some may be missing: they are asked for again.
            if ((part->nlmsg_flags & NLM_F_DUMP_INTR) != 0)
                return fail(Code::unavailable, "the host's addresses: are being changed");
            if (part->nlmsg_type == NLMSG_DONE)
                return found;
            if (part->nlmsg_type == NLMSG_ERROR)
                return fail_errno("the host's addresses",
                                  -static_cast<nlmsgerr*>(::mnl_nlmsg_get_payload(part))->error);
            if (part->nlmsg_type == RTM_NEWADDR)
                TRY(keep_address(part, found));
        }
    }
}

Result<uint32_t> ruleset_generation() {
    UniqueFd socket = TRY(open_netlink(NETLINK_NETFILTER));
    Message<nfgenmsg> message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 0);
    message.header->nlmsg_flags = NLM_F_REQUEST;
    message.payload->nfgen_family = AF_UNSPEC;
    if (::send(socket.get(), message.header, message.header->nlmsg_len, 0) < 0)
        return fail_errno("nftables: its generation");
    alignas(nlmsghdr) char buffer[8192];
    ssize_t got = ::recv(socket.get(), buffer, sizeof(buffer), 0);
    if (got < 0)
        return fail_errno("nftables: its generation");
    auto* reply = reinterpret_cast<nlmsghdr*>(buffer);
    if (!::mnl_nlmsg_ok(reply, static_cast<int>(got)) ||
        reply->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN))
        return fail(Code::host_unsupported, "nftables: this kernel tells no generation");
    std::optional<uint32_t> generation;
    auto keep = [](const nlattr* attribute, void* found) {
        if (::mnl_attr_get_type(attribute) == NFTA_GEN_ID)
            *static_cast<std::optional<uint32_t>*>(found) = ntohl(::mnl_attr_get_u32(attribute));
        return MNL_CB_OK;
    };
    if (::mnl_attr_parse(reply, sizeof(nfgenmsg), keep, &generation) >= 0 && generation)
        return *generation;
    return fail(Code::host_unsupported, "nftables: this kernel tells no generation");
}

Status flush_connections() {
    UniqueFd socket = TRY(open_netlink(NETLINK_NETFILTER));
    Message<nfgenmsg> message(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0);
    message.payload->nfgen_family = AF_UNSPEC;
    message.payload->version = NFNETLINK_V0;
    int error = TRY(send_and_wait(socket.get(), message.header, 1));
    if (error != 0)
        return fail_errno("forgetting connections (nf_conntrack_netlink)", error);
    return {};
}

}  // namespace spore
