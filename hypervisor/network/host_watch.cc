#include "hypervisor/network/host_watch.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

namespace spore {

namespace {

Result<UniqueFd> listen_to(int protocol, int group) {
    UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
    sockaddr_nl self = {};
    self.nl_family = AF_NETLINK;
    if (!socket || ::bind(socket.get(), reinterpret_cast<sockaddr*>(&self), sizeof(self)) != 0 ||
        ::setsockopt(socket.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) != 0)
        return fail_errno("listening to the host's network");
    return socket;
}

// ENOBUFS, which says that more was told than the socket holds, is a telling as well.
bool was_told(int socket) {
    char bytes[4096];
    bool told = false;
    while (::recv(socket, bytes, sizeof(bytes), 0) >= 0 || errno == ENOBUFS || errno == EINTR)
        told = true;
    return told;
}

}  // namespace

Result<HostWatch> HostWatch::open() {
    UniqueFd rules = TRY(listen_to(NETLINK_NETFILTER, NFNLGRP_NFTABLES));
    return HostWatch(std::move(rules), TRY(listen_to(NETLINK_ROUTE, RTNLGRP_IPV4_IFADDR)));
}

bool HostWatch::rules_changed() {
    return was_told(rules_.get());
}

bool HostWatch::addresses_changed() {
    return was_told(addresses_.get());
}

}  // namespace spore
