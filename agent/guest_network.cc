// The guest's network interface, by the socket ioctls of netdevice(7) and route(7).

#include <arpa/inet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "agent/file.h"
#include "agent/guest_system.h"

namespace spore {

namespace {

constexpr const char* kInterface = "eth0";

class Interface {
  public:
    static Result<Interface> open(const char* name) {
        UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        if (!socket)
            return fail_errno("socket of AF_INET");
        return Interface(name, std::move(socket));
    }

    Status set_up(bool up) {
        ifreq request = named();
        TRY(control(SIOCGIFFLAGS, request, "find"));
        const bool is_up = (request.ifr_flags & IFF_UP) != 0;
        if (is_up == up)
            return {};
        request.ifr_flags = static_cast<short>(request.ifr_flags ^ IFF_UP);
        return control(SIOCSIFFLAGS, request, up ? "bring up" : "bring down");
    }

    Status set_mac(const std::array<uint8_t, 6>& mac) {
        ifreq request = named();
        request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
        std::copy(mac.begin(), mac.end(), request.ifr_hwaddr.sa_data);
        return control(SIOCSIFHWADDR, request, "set the MAC address of");
    }

    Status set_address(in_addr address, uint8_t prefix_bits) {
        ifreq request = named();
        put(request.ifr_addr, address);
        TRY(control(SIOCSIFADDR, request, "set the address of"));
        const in_addr mask = {htonl(prefix_bits == 0 ? 0 : ~uint32_t{0} << (32 - prefix_bits))};
        request = named();
        put(request.ifr_netmask, mask);
        return control(SIOCSIFNETMASK, request, "set the prefix of");
    }

    Status add_default_route(in_addr gateway) {
        rtentry route = {};
        put(route.rt_dst, {INADDR_ANY});
        put(route.rt_genmask, {INADDR_ANY});
        put(route.rt_gateway, gateway);
        route.rt_flags = RTF_UP | RTF_GATEWAY;
        route.rt_dev = name_.data();
        if (::ioctl(socket_.get(), SIOCADDRT, &route) != 0)
            return fail_errno("add the default route");
        return {};
    }

  private:
    Interface(const char* name, UniqueFd socket) : name_(name), socket_(std::move(socket)) {}

    ifreq named() const {
        ifreq request = {};
        name_.copy(request.ifr_name, sizeof(request.ifr_name) - 1);
        return request;
    }
    static void put(sockaddr& into, in_addr address) {
        sockaddr_in inet = {};
        inet.sin_family = AF_INET;
        inet.sin_addr = address;
        std::memcpy(&into, &inet, sizeof(into));
    }
    Status control(unsigned long request, ifreq& argument, const char* what) {
        if (::ioctl(socket_.get(), request, &argument) != 0)
            return fail_errno(std::string(what) + " network interface " + name_);
        return {};
    }

    std::string name_;
    UniqueFd socket_;
};

}  // namespace

Status raise_loopback() {
    return TRY(Interface::open("lo")).set_up(true);
}

Status GuestSystem::configure_network(const NetworkSettings& settings) {
    Interface interface = TRY(Interface::open(kInterface));
    // Down it forgets the routes and neighbours of whoever it was before.
    TRY(interface.set_up(false));
    if (settings.mac)
        TRY(interface.set_mac(*settings.mac));
    if (settings.address)
        TRY(interface.set_address(*settings.address, settings.prefix_bits));
    TRY(interface.set_up(true));
    if (settings.gateway)
        TRY(interface.add_default_route(*settings.gateway));
    if (settings.dns.empty())
        return {};
    std::string resolver;
    for (const in_addr server : settings.dns) {
        char text[INET_ADDRSTRLEN];
        resolver.append("nameserver ")
            .append(::inet_ntop(AF_INET, &server, text, sizeof(text)))
            .append("\n");
    }
    return put_file("/etc/resolv.conf", resolver);
}

}  // namespace spore
