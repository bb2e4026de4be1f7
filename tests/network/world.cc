#include "tests/network/world.h"

#include <arpa/inet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "hypervisor/network/layout.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/route_socket.h"

namespace spore {

namespace {

constexpr size_t kFrameBytes = 65536 + 64;
constexpr size_t kHeaderBytes = 10;  // virtio_net_hdr, a tap's own size before it is told

void must(const Status& status) {
    if (status)
        return;
    std::cerr << "the test's world: " << status.error().message << std::endl;
    std::abort();
}

template <typename T>
T must(Result<T> result) {
    if (!result)
        must(Status(std::unexpected(result.error())));
    return std::move(*result);
}

uint32_t address_of(const std::string& text) {
    return must(parse_ipv4("address", text));
}

sockaddr_in socket_address(const std::string& address, uint16_t port) {
    sockaddr_in inet = {};
    inet.sin_family = AF_INET;
    inet.sin_port = htons(port);
    inet.sin_addr.s_addr = htonl(address_of(address));
    return inet;
}

template <typename Body>
auto in(int ns, Body body) {
    return ns < 0 ? body() : in_namespace(ns, body);
}

UniqueFd bound(int ns, int type, uint16_t port, const std::string& address) {
    UniqueFd socket = make_socket(ns, type);
    int one = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    sockaddr_in here = socket_address(address, port);
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&here), sizeof(here)) != 0)
        must(Status(fail_errno("bind")));
    return socket;
}

UniqueFd make_world() {
    UniqueFd host = must(own_namespace());
    return must(in_namespace(-1, [&]() -> Result<UniqueFd> {
        auto route = TRY(RouteSocket::open());
        TRY(route.set_up("lo", true));
        TRY(route.make_pair("in", "out", host.get()));
        TRY(route.add_address("in", address_of("192.0.2.2"), 24));
        for (const char* address : {kPublic, kNameserver, kPrivate, kMetadata})
            TRY(route.add_address("lo", address_of(address), 32));
        TRY(route.set_up("in", true));
        TRY(route.add_default_route(address_of(kHostOutside)));
        TRY(in_namespace(host.get(), [&]() -> Status {
            auto outside = TRY(RouteSocket::open());
            TRY(outside.set_up("lo", true));
            TRY(outside.add_address("out", address_of(kHostOutside), 24));
            TRY(outside.set_up("out", true));
            TRY(outside.add_default_route(address_of("192.0.2.2")));
            return set_sysctl("ipv4/ip_forward", "1");
        }));
        return own_namespace();
    }));
}

}  // namespace

std::string enter_own_host() {
    if (::geteuid() != 0)
        return "only root can make network namespaces";
    if (::unshare(CLONE_NEWNET | CLONE_NEWNS) != 0)
        return std::string("this host refuses namespaces: ") + std::strerror(errno);
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", "/run", "tmpfs", 0, nullptr) != 0)
        return std::string("this host refuses mounts: ") + std::strerror(errno);
    return "";
}

int world() {
    static const UniqueFd made = make_world();
    return made.get();
}

UniqueFd make_socket(int ns, int type) {
    return must(in(ns, [&]() -> Result<UniqueFd> {
        UniqueFd socket(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
        if (!socket)
            return fail_errno("socket");
        return socket;
    }));
}

UniqueFd listen_in(int ns, uint16_t port) {
    UniqueFd socket = bound(ns, SOCK_STREAM, port, "0.0.0.0");
    if (::listen(socket.get(), 64) != 0)
        must(Status(fail_errno("listen")));
    return socket;
}

UniqueFd receive_in(int ns, uint16_t port, const std::string& address) {
    return bound(ns, SOCK_DGRAM, port, address);
}

int connect_to(int socket, const std::string& address, uint16_t port, int ms) {
    sockaddr_in inet = socket_address(address, port);
    timeval limit = {ms / 1000, ms % 1000 * 1000};  // of connect(), too: socket(7)
    ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (::connect(socket, reinterpret_cast<sockaddr*>(&inet), sizeof(inet)) == 0)
        return 0;
    return errno == EINPROGRESS ? ETIMEDOUT : errno;
}

UniqueFd accept_from(int listener, int ms) {
    pollfd waiting = {listener, POLLIN, 0};
    if (::poll(&waiting, 1, ms) <= 0)
        return UniqueFd();
    return UniqueFd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
}

std::string read_from(int socket, int ms) {
    pollfd waiting = {socket, POLLIN, 0};
    char buffer[2048];
    if (::poll(&waiting, 1, ms) <= 0)
        return "";
    ssize_t got = ::read(socket, buffer, sizeof(buffer));
    return got <= 0 ? "" : std::string(buffer, static_cast<size_t>(got));
}

void send_to(int socket, const std::string& text, const std::string& address, uint16_t port) {
    sockaddr_in inet = socket_address(address, port);
    // What a rule refuses comes back as the socket's error, of this or an earlier packet.
    for (int tries = 0; tries < 3; tries++) {
        if (::sendto(socket, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&inet),
                     sizeof(inet)) >= 0)
            return;
    }
}

Guest::Guest(const NetworkPolicy& policy, const NetworkBounds& bounds) : bounds_(bounds) {
    char name[] = "/run/guest-XXXXXX";
    directory_ = ::mkdtemp(name);
    (void)world();
    tap_ = must(by_passt() ? make_passt_network(directory_, policy, bounds)
                           : make_network(directory_, policy, bounds));
    must(apply_policy(directory_, policy, bounds));
    ns_ = must(in_namespace(-1, [&]() -> Result<UniqueFd> {
        inner_.reset(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
        ifreq request = {};
        std::string_view("eth0").copy(request.ifr_name, IFNAMSIZ);
        request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if (::ioctl(inner_.get(), TUNSETIFF, &request) != 0)
            return fail_errno("eth0");
        for (const char* which : {"all", "default"})
            TRY(set_sysctl(std::string("ipv6/conf/") + which + "/disable_ipv6", "1"));
        auto route = TRY(RouteSocket::open());
        TRY(route.set_up("lo", true));
        TRY(route.set_mac("eth0", network_layout::kGuestMac));
        TRY(route.add_address("eth0", address_of(network_layout::kGuestAddress),
                              network_layout::kGuestPrefixBits));
        TRY(route.set_up("eth0", true));
        TRY(route.add_default_route(address_of(network_layout::kGatewayAddress)));
        return own_namespace();
    }));
    stop_.reset(::eventfd(0, EFD_CLOEXEC));
    pump_ = std::thread([this] { pump(); });
}

void Guest::end_pump() {
    uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof(one));
    if (pump_.joinable())
        pump_.join();
}

void Guest::drop_tap() {
    end_pump();
    tap_.reset();
}

Guest::~Guest() {
    drop_tap();
    must(remove_network(directory_));
    std::filesystem::remove_all(directory_);
}

void Guest::pump() {
    std::vector<char> buffer(kFrameBytes);
    for (;;) {
        pollfd ends[] = {
            {tap_.get(), POLLIN, 0}, {inner_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
        if (::poll(ends, 3, -1) < 0 || ends[2].revents != 0)
            return;
        if ((ends[0].revents & POLLIN) != 0) {
            ssize_t got = ::read(tap_.get(), buffer.data(), buffer.size());
            if (got > static_cast<ssize_t>(kHeaderBytes)) {
                std::scoped_lock lock(mutex_);
                seen_.emplace_back(buffer.data() + kHeaderBytes,
                                   static_cast<size_t>(got) - kHeaderBytes);
            }
            (void)!::write(inner_.get(), buffer.data(), static_cast<size_t>(got));
        }
        if ((ends[1].revents & POLLIN) != 0) {
            ssize_t got = ::read(inner_.get(), buffer.data(), buffer.size());
            (void)!::write(tap_.get(), buffer.data(), static_cast<size_t>(got));
        }
    }
}

UniqueFd Guest::sandbox_namespace() const {
    if (by_passt())
        return UniqueFd(
            ::open(("/proc/" + std::to_string(keeper_of(directory_)) + "/ns/net").c_str(),
                   O_RDONLY | O_CLOEXEC));
    return UniqueFd(::open((std::filesystem::read_symlink(directory_ / "network") / "net").c_str(),
                           O_RDONLY | O_CLOEXEC));
}

NetworkReport Guest::report() const {
    return must(inspect_network(directory_));
}

int Guest::connect(const std::string& address, uint16_t port, int ms) const {
    UniqueFd socket = make_socket(ns(), SOCK_STREAM);
    return connect_to(socket.get(), address, port, ms);
}

void Guest::send_frame(std::span<const uint8_t> frame) const {
    std::vector<uint8_t> bytes(kHeaderBytes);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    (void)!::write(tap_.get(), bytes.data(), bytes.size());
}

std::vector<std::string> Guest::frames() {
    std::scoped_lock lock(mutex_);
    return std::exchange(seen_, {});
}

NetworkPolicy policy(const std::string& mode, std::vector<std::string> allow,
                     std::vector<std::string> deny, const std::string& dns) {
    return must(parse_policy({mode, std::move(allow), std::move(deny), dns}));
}

}  // namespace spore
