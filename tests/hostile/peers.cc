#include "tests/hostile/peers.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "hypervisor/sandbox/vmm_client.h"

namespace spore::test {

namespace {

constexpr int kTurnMs = 20;

// Never waits, however many do.
UniqueFd connect_to(const std::filesystem::path& path) {
    auto fd = connect_unix(path.parent_path(), path.filename(), SOCK_STREAM | SOCK_NONBLOCK);
    return fd ? std::move(*fd) : UniqueFd();
}

bool wait_readable(int fd, int limit_ms) {
    pollfd wait = {.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&wait, 1, limit_ms) == 1;
}

}  // namespace

void Peer::start() {
    thread_ = std::thread([this] {
        while (!ends_)
            turn();
    });
}

void Peer::stop() {
    ends_ = true;
    if (thread_.joinable())
        thread_.join();
}

VsockPeer::VsockPeer(std::filesystem::path path) : path_(std::move(path)) {
    start();
}

void VsockPeer::turn() {
    UniqueFd fd = connect_to(path_);
    if (!fd) {
        ::usleep(kTurnMs * 1000);
        return;
    }
    std::string line = "CONNECT 1024\n";
    line.resize(line.size() + rounds_++ % 16 * 4096, 'x');
    (void)::send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    std::array<char, 65536> bytes;
    while (wait_readable(fd.get(), kTurnMs)) {
        ssize_t got = ::recv(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got <= 0)
            return;
        bytes_ += static_cast<uint64_t>(got);
    }
}

NetPeer::NetPeer(const std::filesystem::path& path) {
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof(address.sun_path) - 1);
    if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
        ::listen(listener_.get(), 4) == 0)
        start();
}

void NetPeer::turn() {
    if (!connection_) {
        if (wait_readable(listener_.get(), kTurnMs))
            connection_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        return;
    }
    if (wait_readable(connection_.get(), 1)) {
        std::array<char, 65536> bytes;
        ssize_t got = ::recv(connection_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got <= 0) {
            connection_ = UniqueFd();
            return;
        }
        bytes_ += static_cast<uint64_t>(got);
    }
    // Whole frames or none: a cut one would be this peer's fault, not the guest's.
    pollfd wait = {.fd = connection_.get(), .events = POLLOUT, .revents = 0};
    if (::poll(&wait, 1, 0) != 1)
        return;
    uint32_t size = 14 + frames_++ * 37 % 1500;
    std::array<char, 4 + 1514> frame = {};
    uint32_t big_endian = htonl(size);
    std::memcpy(frame.data(), &big_endian, sizeof(big_endian));
    (void)::send(connection_.get(), frame.data(), 4 + size, MSG_NOSIGNAL);
}

bool vsock_answers(const std::filesystem::path& path, int limit_ms) {
    UniqueFd fd = connect_to(path);
    constexpr char kLine[] = "CONNECT 1024\n";
    if (!fd || ::send(fd.get(), kLine, sizeof(kLine) - 1, MSG_NOSIGNAL) < 0)
        return false;
    char byte = 0;
    return wait_readable(fd.get(), limit_ms) && ::recv(fd.get(), &byte, 1, 0) == 1 && byte == 'O';
}

}  // namespace spore::test
