// Vsock connections from phase to phase: in, shut down by halves, and out.

#include <sys/socket.h>

#include <algorithm>
#include <cassert>

#include "devices/virtio/vsock.h"

namespace spore {

namespace {
constexpr uint8_t kShutBoth = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;
}  // namespace

VsockDevice::Connection* VsockDevice::find(VsockPorts ports) {
    auto found = connections_.find(ports.key());
    return found == connections_.end() ? nullptr : found->second.get();
}

// The carried connection that waits for its host end; there is one at most.
VsockDevice::Connection* VsockDevice::detached() const {
    for (const auto& [key, connection] : connections_) {
        if (connection->phase == Phase::detached)
            return connection.get();
    }
    return nullptr;
}

// The host end has come: what the guest sent meanwhile goes to it, what it has written to the
// guest.
void VsockDevice::adopt_socket(Connection& connection, std::unique_ptr<VsockSocket> socket) {
    assert(connection.phase == Phase::detached && !connection.socket);
    connection.socket = std::move(socket);
    connection.socket->owner = &connection;
    connection.phase = Phase::established;
    connection.readable = true;  // most likely; recv tells
    vsock_counters_.connections++;
    flush(connection);
    settle(connection);
}

// At the limit, a connection that only waits for the guest's last word yields its place (virtio 1.2
// §5.10.6.5 wants an end to that wait).
bool VsockDevice::room_for_one_more() {
    if (connections_.size() < limits::kVsockConnectionsMax)
        return true;
    for (auto& [key, connection] : connections_) {
        if (connection->phase != Phase::lingering)
            continue;
        VsockHeader header = header_for(*connection, VIRTIO_VSOCK_OP_RST);
        resets_.push_back(header);
        remove(*connection);
        return true;
    }
    return false;
}

VsockDevice::Connection& VsockDevice::insert(std::unique_ptr<Connection> connection) {
    Connection& reference = *connection;
    if (reference.socket)
        reference.socket->owner = &reference;
    [[maybe_unused]] bool added =
        connections_.emplace(reference.ports.key(), std::move(connection)).second;
    assert(added);
    return reference;
}

// Takes `connection` out of its table. It stays allocated until sweep().
void VsockDevice::remove(Connection& connection) {
    close_socket(connection);
    connection.buffer.clear();
    connection.pending = 0;
    if (connection.phase == Phase::greeting) {
        auto found = std::ranges::find(clients_, &connection, &std::unique_ptr<Connection>::get);
        assert(found != clients_.end());
        dead_.push_back(std::move(*found));
        clients_.erase(found);
        arm_listener();
    } else {
        auto node = connections_.extract(connection.ports.key());
        assert(!node.empty());
        dead_.push_back(std::move(node.mapped()));
    }
    connection.phase = Phase::dead;
}

// Ends a connection at once on the host's side, and with RST on the guest's.
void VsockDevice::reset_connection(Connection& connection) {
    if (connection.phase == Phase::resetting || connection.phase == Phase::dead)
        return;
    if (connection.phase == Phase::requested && (connection.pending & Connection::kRequest) != 0) {
        remove(connection);  // the guest never heard of it
        return;
    }
    close_socket(connection);
    connection.buffer.clear();
    connection.phase = Phase::resetting;
    connection.pending = Connection::kReset;
    settle(connection);
}

// The host program sees the end now; the descriptor goes when the ring has let go of it.
void VsockDevice::close_socket(Connection& connection) {
    if (!connection.socket)
        return;
    VsockSocket& socket = *connection.socket;
    ::shutdown(socket.file.fd(), SHUT_RDWR);
    loop_.cancel(socket.readable_wait);
    loop_.cancel(socket.writable_wait);
    socket.owner = nullptr;
    closed_.push_back(std::move(connection.socket));
}

// No more bytes for the host program: it closed, or shut its receiving half.
void VsockDevice::host_stopped_reading(Connection& connection) {
    connection.credit.forwarded += static_cast<uint32_t>(connection.buffer.size());
    connection.buffer.clear();
    connection.host_shut |= VIRTIO_VSOCK_SHUTDOWN_RCV;
    if (!connection.reads_host())
        connection.host_shut = kShutBoth;
    if (connection.phase == Phase::established)
        connection.pending |= Connection::kShutdown;
}

// All that the host program sent has gone to the guest, and no more will come.
void VsockDevice::host_end_of_stream(Connection& connection) {
    connection.readable = false;
    connection.host_shut |= VIRTIO_VSOCK_SHUTDOWN_SEND;
    connection.pending |= Connection::kShutdown;
    if (connection.socket->hung_up())
        host_stopped_reading(connection);
    settle(connection);
}

// The host program closed its end for good.
void VsockDevice::host_closed(Connection& connection) {
    if (connection.phase == Phase::requested) {
        reset_connection(connection);
        return;
    }
    connection.host_shut |= VIRTIO_VSOCK_SHUTDOWN_SEND;
    host_stopped_reading(connection);
    settle(connection);
}

// Sends what waits for the host program, as far as its socket takes it.
void VsockDevice::flush(Connection& connection) {
    while (!connection.buffer.empty()) {
        auto bytes = connection.buffer.front();
        ssize_t sent = ::send(connection.socket->file.fd(), bytes.data(), bytes.size(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0) {
            host_stopped_reading(connection);
            return;
        }
        connection.buffer.consume(static_cast<size_t>(sent));
        connection.credit.forwarded += static_cast<uint32_t>(sent);
        vsock_counters_.bytes_to_host += static_cast<uint64_t>(sent);
    }
}

// After any change of a connection: takes the steps that follow from it, puts it in the row for the
// rx queue if it has something to say, and waits for what it lacks. May remove it.
void VsockDevice::settle(Connection& connection) {
    if (connection.phase == Phase::dead)
        return;
    bool drained = connection.buffer.empty();
    if (connection.phase == Phase::flushing && drained) {
        remove(connection);
        return;
    }
    if (connection.phase == Phase::established) {
        if ((connection.guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 && drained &&
            !connection.write_shut) {
            ::shutdown(connection.socket->file.fd(), SHUT_WR);
            connection.write_shut = true;
        }
        // Everything has been said on both sides.
        if ((connection.host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 && connection.write_shut) {
            connection.host_shut = kShutBoth;
            connection.pending |= Connection::kShutdown;
        }
        if (connection.host_shut == kShutBoth) {
            close_socket(connection);
            connection.phase = Phase::lingering;
        }
    }
    // The guest has said goodbye, and all that it sent is delivered: RST is the answer (§5.10.6.5).
    if ((connection.phase == Phase::established || connection.phase == Phase::lingering) &&
        connection.guest_shut == kShutBoth && drained) {
        reset_connection(connection);
        return;
    }
    if (connection.phase == Phase::established) {
        if (connection.credit.announced && connection.credit.update_due())
            connection.pending |= Connection::kCreditUpdate;
        if (connection.readable && connection.reads_host() && connection.credit.room() == 0 &&
            !connection.credit_requested) {
            connection.pending |= Connection::kCreditRequest;
            connection.credit_requested = true;
        }
    }
    if (connection.wants_rx() && !connection.queued) {
        connection.queued = true;
        ready_.push_back(&connection);
    }
    arm(connection);
}

void VsockDevice::drop_connections(bool also_unsent) {
    std::vector<Connection*> doomed;
    for (auto& [key, connection] : connections_) {
        bool unsent = connection->phase == Phase::requested &&
                      (connection->pending & Connection::kRequest) != 0;
        if (also_unsent || !unsent)
            doomed.push_back(connection.get());
    }
    for (Connection* connection : doomed)
        remove(*connection);
}

uint32_t VsockDevice::allocate_host_port(uint32_t guest_port) {
    while (true) {  // ends: there are a million times more ports than connections
        uint32_t port = next_host_port_;
        next_host_port_ = port == kHostPortLast ? kHostPortFirst : port + 1;
        if (find({.host = port, .guest = guest_port}) == nullptr)
            return port;
    }
}

// Asks the guest to accept `connection`, which has a socket.
void VsockDevice::request(std::unique_ptr<Connection> connection, uint32_t guest_port) {
    connection->ports = {.host = allocate_host_port(guest_port), .guest = guest_port};
    connection->phase = Phase::requested;
    connection->pending = Connection::kRequest;
    connection->deadline = Clock::now() + config_.answer_limit;
    settle(insert(std::move(connection)));
    arm_timer();
}

Status VsockDevice::attach(UniqueFd host_end, uint32_t guest_port) {
    if (!queues()[kRxQueue].ready() || failed())
        return fail(Code::unavailable, "vsock: the guest has no driver for it running");
    int type = 0;
    socklen_t size = sizeof(type);
    if (::getsockopt(host_end.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0)
        return fail_errno("vsock: the descriptor to attach");
    if (type != SOCK_STREAM)
        return fail(Code::invalid_argument, "vsock: the descriptor to attach is no stream socket");
    if (!room_for_one_more())
        return fail(Code::resource_exhausted,
                    "vsock: " + std::to_string(limits::kVsockConnectionsMax) +
                        " connections are open, which is the limit");
    auto connection = std::make_unique<Connection>();
    connection->socket = TRY(make_socket(std::move(host_end)));
    request(std::move(connection), guest_port);
    schedule_pump();
    return {};
}

}  // namespace spore
