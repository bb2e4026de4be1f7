// The keeper's half of user_network.h. Its requests come from the user's own processes.

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <optional>

#include "hypervisor/base/small_file.h"
#include "hypervisor/base/tell_ready.h"
#include "hypervisor/network/guest_side.h"
#include "hypervisor/network/layout.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/network_files.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"
#include "hypervisor/network/user_network.h"
#include "hypervisor/network/user_requests.h"

namespace spore {

namespace net = network_layout;
namespace ask = user_requests;

namespace {

// What the interface says; nothing: there is none.
std::optional<int> flags_of(const char* name) {
    UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = {};
    std::string_view(name).copy(request.ifr_name, IFNAMSIZ - 1);
    if (!socket || ::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0)
        return std::nullopt;
    return request.ifr_flags;
}

// Whoever asks is told what is.
bool gate_is_open() {
    return (flags_of(net::kUplink).value_or(0) & IFF_UP) != 0;
}

Status set_gate(bool open) {
    auto route = TRY(RouteSocket::open());
    TRY(route.set_up(net::kUplink, open));
    if (!open)
        return {};
    // The kernel has forgotten it with the interface, unless that was up.
    auto added = route.add_default_route(TRY(parse_ipv4("gateway", net::kUserGateway)));
    if (!added && added.error().code != Code::already_exists)
        return added;
    return {};
}

class Keeper {
  public:
    Status begin() {
        // pasta, which is our parent in the namespace outside, takes us along.
        if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
            return fail_errno("PR_SET_PDEATHSIG");
        TRY(set_gate(false));
        NetworkFiles files(ask::kDirectory);
        tap_ = TRY(make_guest_side(TRY(files.read_rules())));
        TRY(replace_file(files.root() / "listing", TRY(list_tables(sandbox_tables()))));
        links_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
        sockaddr_nl group = {};
        group.nl_family = AF_NETLINK;
        group.nl_groups = RTMGRP_LINK;
        if (!links_ ||
            ::bind(links_.get(), reinterpret_cast<sockaddr*>(&group), sizeof(group)) != 0)
            return fail_errno("netlink");
        listener_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        sockaddr_un here = {};
        here.sun_family = AF_UNIX;
        std::string_view(ask::kSocket).copy(here.sun_path, sizeof(here.sun_path) - 1);
        if (!listener_ ||
            ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&here), sizeof(here)) != 0 ||
            ::listen(listener_.get(), 16) != 0)
            return fail_errno(ask::kSocket);
        return keep_only_the_network();
    }

    Status serve() {
        for (;;) {
            pollfd watched[] = {{listener_.get(), POLLIN, 0}, {links_.get(), POLLIN, 0}};
            if (::poll(watched, 2, -1) < 0 && errno != EINTR)
                return fail_errno("poll");
            char news[8192];
            while (::recv(links_.get(), news, sizeof(news), 0) > 0) {
            }
            if (!flags_of(net::kTap))
                return {};
            if (watched[0].revents != 0)
                serve_one();
        }
    }

  private:
    void serve_one() {
        UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        timeval patience = {ask::kAnswerSecondsMax, 0};
        for (int way : {SO_RCVTIMEO, SO_SNDTIMEO})
            (void)::setsockopt(client.get(), SOL_SOCKET, way, &patience, sizeof(patience));
        std::string request(ask::kPacketBytesMax, '\0');
        ssize_t got = ::recv(client.get(), request.data(), request.size(), MSG_TRUNC);
        if (got <= 0)
            return;
        if (static_cast<size_t>(got) > request.size())
            return send(client.get(),
                        fail(Code::invalid_argument, "a request of " + std::to_string(got) +
                                                         " bytes, at most " +
                                                         std::to_string(request.size())));
        request.resize(static_cast<size_t>(got));
        if (request[0] == ask::kTakeTap)
            return send_tap(client.get());
        send(client.get(), answer(request[0], request.substr(1)));
    }

    Result<std::string> answer(char what, const std::string& text) {
        switch (what) {
            case ask::kLoadRules:
                TRY(run_nft(text));
                TRY(flush_connections());
                return list_tables(sandbox_tables());
            case ask::kList:
                return (gate_is_open() ? "up\n" : "down\n") + TRY(list_tables(sandbox_tables()));
            case ask::kOpenGate:
                TRY(set_gate(true));
                return std::string();
            case ask::kCloseGate:
                TRY(set_gate(false));
                return std::string();
            default:
                return fail(Code::invalid_argument, "no such request");
        }
    }

    void send(int client, const Result<std::string>& answer) {
        std::string text =
            answer ? "ok\n" + *answer
                   : std::string(code_name(answer.error().code)) + " " + answer.error().message;
        (void)::send(client, text.data(), text.size(), MSG_NOSIGNAL);  // or nobody waits any more
    }

    // Ours is closed behind it, so that the tap ends with whoever has it.
    void send_tap(int client) {
        if (!tap_)
            return send(client, fail(Code::unavailable, "the tap has been taken already"));
        char ok[] = "ok\n";
        iovec text = {ok, 3};
        alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
        msghdr message = {};
        message.msg_iov = &text;
        message.msg_iovlen = 1;
        message.msg_control = space;
        message.msg_controllen = sizeof(space);
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        int tap = tap_.get();
        std::memcpy(CMSG_DATA(header), &tap, sizeof(tap));
        (void)::sendmsg(client, &message, MSG_NOSIGNAL);
        tap_.reset();
    }

    UniqueFd tap_, links_, listener_;
};

}  // namespace

Status keep_user_network(int ready, const std::function<Status()>& shut_in) {
    Keeper keeper;
    auto begun = keeper.begin();
    if (begun)
        begun = shut_in();
    if (!tell_ready(UniqueFd(ready), begun))
        return fail_errno("telling that the network is kept");
    TRY(begun);
    return keeper.serve();
}

}  // namespace spore
