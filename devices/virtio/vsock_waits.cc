// What the vsock device waits for in the ring: sockets, the listener and its clients' lines, time.
// UNTRUSTED: a client's line is the host program's; it is bounded and parsed here. Fuzz target:
// fuzz-vsock.

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "devices/virtio/vsock.h"

namespace spore {

namespace {

struct Wish {
    bool attach;  // else connect
    uint32_t port;
};

// "CONNECT <port>\n" or "ATTACH <port>\n"; nothing if `line` is anything else.
std::optional<Wish> parse_line(std::string_view line) {
    constexpr std::string_view kConnect = "CONNECT ", kAttach = "ATTACH ";
    bool attach = line.starts_with(kAttach);
    if ((!attach && !line.starts_with(kConnect)) || !line.ends_with('\n'))
        return std::nullopt;
    line.remove_prefix(attach ? kAttach.size() : kConnect.size());
    line.remove_suffix(1);
    if (line.ends_with('\r'))
        line.remove_suffix(1);
    uint32_t port = 0;
    auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
    constexpr uint32_t kNoPort = 0xffff'ffff;  // VMADDR_PORT_ANY: nobody's address
    if (error != std::errc() || end != line.data() + line.size() || port == kNoPort)
        return std::nullopt;
    return Wish{attach, port};
}

}  // namespace

Result<std::unique_ptr<VsockSocket>> VsockDevice::make_socket(UniqueFd fd) {
    auto file = loop_.add_file(std::move(fd));
    if (!file) {
        counters_.host_errors++;
        return std::unexpected(std::move(file).error());
    }
    return std::make_unique<VsockSocket>(
        std::move(*file),
        [this](VsockSocket& socket, int32_t result) { on_readable(socket, result); },
        [this](VsockSocket& socket, int32_t result) { on_writable(socket, result); });
}

// Has the ring wait for whatever `connection` needs of its socket next.
void VsockDevice::arm(Connection& connection) {
    if (!active() || !connection.socket)
        return;
    VsockSocket& socket = *connection.socket;
    bool reads =
        connection.phase == Phase::greeting || (connection.reads_host() && !connection.readable);
    if (reads && !socket.readable_wait.in_flight()) {
        begin_request();
        loop_.poll(socket.readable_wait, socket.file, POLLIN);
    }
    if (connection.phase != Phase::greeting && !connection.buffer.empty() &&
        !socket.writable_wait.in_flight()) {
        begin_request();
        loop_.poll(socket.writable_wait, socket.file, POLLOUT);
    }
    if (connection.needs_watching())
        arm_timer();
}

void VsockDevice::on_readable(VsockSocket& socket, int32_t result) {
    Connection* connection = socket.owner;
    if (connection != nullptr) {
        connection->readable |= result > 0;  // perhaps only the end or an error: recv tells
        if (result < 0 && result != -ECANCELED)
            counters_.host_errors++;
        if (active() && connection->phase == Phase::greeting)
            read_line(*connection);
        else if (active())
            settle(*connection);
    }
    schedule_pump();
    end_request();
}

void VsockDevice::on_writable(VsockSocket& socket, int32_t) {
    Connection* connection = socket.owner;
    if (connection != nullptr && active()) {
        flush(*connection);
        settle(*connection);
    }
    schedule_pump();
    end_request();
}

void VsockDevice::arm_listener() {
    if (!active() || failed() || accept_failed_ || listener_wait_.in_flight() ||
        clients_.size() >= limits::kVsockClientsMax)
        return;
    begin_request();
    loop_.poll(listener_wait_, listener_.file(), POLLIN);
}

void VsockDevice::accept_clients() {
    // Only so many at a time, as others on the loop want their turn.
    for (uint32_t count = 0;
         count < limits::kVsockClientsMax && clients_.size() < limits::kVsockClientsMax; count++) {
        auto fd = listener_.accept();
        if (fd && !*fd)
            break;
        auto socket = fd ? make_socket(std::move(*fd)) : std::unexpected(std::move(fd).error());
        if (!socket) {  // no descriptors left: others wait in the backlog until some may be
            counters_.host_errors++;
            accept_failed_ = true;
            break;
        }
        auto client = std::make_unique<Connection>();
        client->socket = std::move(*socket);
        client->socket->owner = client.get();
        client->says_ok = true;
        client->deadline = Clock::now() + config_.line_limit;
        clients_.push_back(std::move(client));
        read_line(*clients_.back());  // most have written it by now
    }
    arm_listener();
    if (!clients_.empty() || accept_failed_)
        arm_timer();
}

void VsockDevice::read_line(Connection& client) {
    char bytes[limits::kVsockLineBytesMax];
    int fd = client.socket->file.fd();
    size_t room = sizeof(bytes) - client.buffer.size();
    // What follows the line is the connection's data and stays in the socket.
    ssize_t peeked = ::recv(fd, bytes, room, MSG_PEEK | MSG_DONTWAIT);
    if (peeked < 0 && (errno == EAGAIN || errno == EINTR)) {
        arm(client);
        return;
    }
    if (peeked <= 0) {
        reject(client);
        return;
    }
    std::string_view seen(bytes, static_cast<size_t>(peeked));
    size_t end = seen.find('\n');
    bool complete = end != seen.npos;
    iovec line = {bytes, complete ? end + 1 : seen.size()};
    if (::recv(fd, bytes, line.iov_len, MSG_DONTWAIT) != static_cast<ssize_t>(line.iov_len)) {
        reject(client);
        return;
    }
    client.buffer.append(std::span(&line, 1), 0, line.iov_len);
    auto all = client.buffer.front();
    if (!complete && all.size() < limits::kVsockLineBytesMax) {
        arm(client);
        return;
    }
    auto wish = parse_line({reinterpret_cast<const char*>(all.data()), all.size()});
    if (!wish || failed()) {
        reject(client);
        return;
    }
    Connection* waiting = wish->attach ? detached() : nullptr;
    if (waiting != nullptr && waiting->ports.guest == wish->port) {
        adopt_socket(*waiting, std::move(client.socket));
        remove(client);
        return;
    }
    if (wish->attach || !room_for_one_more()) {
        vsock_counters_.refused++;
        remove(client);
        return;
    }
    client.buffer.clear();
    client.readable = false;
    auto found = std::ranges::find(clients_, &client, &std::unique_ptr<Connection>::get);
    auto connection = std::move(*found);
    clients_.erase(found);
    arm_listener();
    request(std::move(connection), wish->port);
}

void VsockDevice::reject(Connection& client) {
    vsock_counters_.clients_rejected++;
    remove(client);
}

// The timer ticks while there is something to look after; limits may pass by a tick.
void VsockDevice::arm_timer() {
    if (!active() || timer_.in_flight())
        return;
    begin_request();
    loop_.timeout(timer_, std::min({config_.line_limit / 4, config_.answer_limit / 4,
                                    std::chrono::milliseconds(1000)}));
}

void VsockDevice::expire() {
    auto now = Clock::now();
    std::vector<Connection*> late, gone;
    bool more = false;
    auto look = [&](Connection* connection) {
        bool limited =
            connection->phase == Phase::greeting || connection->phase == Phase::requested;
        if (limited && connection->deadline <= now)
            late.push_back(connection);
        else if (connection->needs_watching() && connection->socket->hung_up())
            gone.push_back(connection);
        else
            more |= limited || connection->needs_watching();
    };
    for (auto& client : clients_)
        look(client.get());
    for (auto& [key, connection] : connections_)
        look(connection.get());
    for (Connection* connection : late) {
        if (connection->phase == Phase::greeting) {
            reject(*connection);
        } else {
            vsock_counters_.refused++;
            reset_connection(*connection);
        }
    }
    for (Connection* connection : gone)
        host_closed(*connection);
    accept_failed_ = false;
    arm_listener();
    if (more)
        arm_timer();
    schedule_pump();
}

}  // namespace spore
