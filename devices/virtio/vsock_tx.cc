// The vsock device's tx queue: packets from the guest. UNTRUSTED: a packet's header is copied out
// once and every field of it checked here. Fuzz target: fuzz-vsock.

#include <sys/socket.h>

#include <algorithm>

#include "devices/virtio/vsock.h"

namespace spore {

namespace {
// Packets of one pass over the queue, so that other work on the loop gets its turn: at 64 KiB each,
// a millisecond or two.
constexpr unsigned kPacketsPerPass = 128;
}  // namespace

// Says whether the pass ended with more to do at once.
bool VsockDevice::serve_tx() {
    Queue& tx = queues()[kTxQueue];
    unsigned packets = 0;
    do {
        tx.disable_kicks();
        while (true) {
            tx_held_ = resets_.size() >= limits::kVsockResetsMax;
            if (tx_held_)
                return false;  // serve_rx() makes room, and the pump looks again
            if (packets++ == kPacketsPerPass)
                return true;
            auto chain = tx.pop();
            if (!chain) {
                device_error(chain.error(), kTxQueue);
                return false;
            }
            if (!*chain)
                break;
            handle_packet(**chain);
            tx.push(std::move(**chain), 0);
        }
    } while (tx.enable_kicks());
    return false;
}

void VsockDevice::handle_packet(const DescriptorChain& chain) {
    auto header = chain.read<VsockHeader>();
    if (!header) {
        counters_.guest_errors++;
        vsock_counters_.bad_packets++;
        return;
    }
    if (header->src_cid != static_cast<uint64_t>(guest_cid_) ||
        header->dst_cid != static_cast<uint64_t>(ContextId::host)) {
        counters_.guest_errors++;
        vsock_counters_.wrong_cids++;
        return;
    }
    // §5.10.6.4.2: an unknown type gets RST. No connection of that type can be meant.
    if (header->type != VIRTIO_VSOCK_TYPE_STREAM) {
        bad_packet(nullptr, *header);
        return;
    }
    Connection* connection = find({.host = header->dst_port, .guest = header->src_port});
    if (header->len > chain.readable_bytes() - sizeof(VsockHeader))
        bad_packet(connection, *header);
    else if (connection != nullptr)
        handle_known(*connection, *header, chain);
    else
        handle_unknown(*header);
}

void VsockDevice::bad_packet(Connection* connection, const VsockHeader& header) {
    counters_.guest_errors++;
    vsock_counters_.bad_packets++;
    if (connection != nullptr)
        reset_connection(*connection);
    else if (header.op != VIRTIO_VSOCK_OP_RST)
        queue_reset(header);
}

void VsockDevice::handle_unknown(const VsockHeader& header) {
    if (header.op == VIRTIO_VSOCK_OP_REQUEST)
        accept_from_guest(header);
    else if (header.op == VIRTIO_VSOCK_OP_RST)
        vsock_counters_.resets_received++;
    else
        queue_reset(header);
}

void VsockDevice::handle_known(Connection& connection, const VsockHeader& header,
                               const DescriptorChain& chain) {
    connection.credit.heard(header);
    if (connection.credit.room() > 0)
        connection.credit_requested = false;
    switch (header.op) {
        case VIRTIO_VSOCK_OP_REQUEST:
            if (connection.phase == Phase::lingering) {  // it forgot the old one without RST
                remove(connection);
                accept_from_guest(header);
                return;
            }
            if (connection.phase == Phase::flushing)
                queue_reset(header);
            else
                bad_packet(&connection, header);
            return;
        case VIRTIO_VSOCK_OP_RESPONSE:
            handle_response(connection);
            break;
        case VIRTIO_VSOCK_OP_RST:
            handle_reset(connection);
            return;
        case VIRTIO_VSOCK_OP_SHUTDOWN:
            handle_shutdown(connection, header.flags);
            break;
        case VIRTIO_VSOCK_OP_RW:
            handle_data(connection, header, chain);
            break;
        case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
            break;
        case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
            if (connection.phase == Phase::established || connection.phase == Phase::detached ||
                connection.phase == Phase::lingering)
                connection.pending |= Connection::kCreditUpdate;
            break;
        default:
            bad_packet(&connection, header);
            return;
    }
    settle(connection);
}

void VsockDevice::handle_response(Connection& connection) {
    // It answers a request that has gone out, and only once.
    if (connection.phase != Phase::requested || (connection.pending & Connection::kRequest) != 0) {
        if (connection.phase != Phase::resetting)
            reset_connection(connection);
        return;
    }
    connection.phase = Phase::established;
    vsock_counters_.connections++;
    if (!connection.says_ok)
        return;
    std::string line = "OK " + std::to_string(connection.ports.host) + "\n";
    // Nothing was written to this socket before, so it takes the line whole or is closed.
    ssize_t sent =
        ::send(connection.socket->file.fd(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(line.size()))
        reset_connection(connection);
}

void VsockDevice::handle_reset(Connection& connection) {
    vsock_counters_.resets_received++;
    if (connection.phase == Phase::requested)
        vsock_counters_.refused++;
    // A guest that had said goodbye and got tired of waiting: what it sent before still counts.
    bool said_goodbye =
        connection.guest_shut == (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
    if (connection.phase == Phase::established && said_goodbye && !connection.buffer.empty()) {
        connection.phase = Phase::flushing;
        connection.pending = 0;
        settle(connection);
        return;
    }
    remove(connection);
}

void VsockDevice::handle_shutdown(Connection& connection, uint32_t flags) {
    // §5.10.6.5: the bits stay once they are given.
    connection.guest_shut |= flags & (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
    if (connection.phase == Phase::requested || connection.phase == Phase::detached) {
        reset_connection(connection);  // half a carried connection is of no use to anybody
    } else if (connection.phase == Phase::established &&
               (connection.guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0) {
        ::shutdown(connection.socket->file.fd(), SHUT_RD);
        connection.readable = false;
    }
}

void VsockDevice::handle_data(Connection& connection, const VsockHeader& header,
                              const DescriptorChain& chain) {
    VsockCredit& credit = connection.credit;
    if (connection.phase == Phase::resetting || connection.phase == Phase::flushing)
        return;  // it was told, or is about to be
    if (connection.phase == Phase::requested ||
        (connection.guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
        bad_packet(&connection, header);
        return;
    }
    if (!credit.allows(header.len)) {
        counters_.guest_errors++;
        vsock_counters_.credit_violations++;
        reset_connection(connection);
        return;
    }
    credit.received += header.len;
    if (connection.phase == Phase::detached) {  // within its credit, like everybody's
        connection.buffer.append(chain.readable(), sizeof(VsockHeader), header.len);
        return;
    }
    if (connection.phase != Phase::established ||
        (connection.host_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0) {
        credit.forwarded += header.len;  // nobody reads it any more, and the guest knows or will
        return;
    }
    size_t sent = 0;
    if (connection.buffer.empty() && header.len > 0) {
        pieces_.clear();
        slice(chain.readable(), sizeof(VsockHeader), header.len, pieces_);
        msghdr message = {};
        message.msg_iov = pieces_.data();
        message.msg_iovlen = pieces_.size();
        ssize_t result =
            ::sendmsg(connection.socket->file.fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (result < 0 && errno != EAGAIN && errno != EINTR) {
            credit.forwarded += header.len;
            host_stopped_reading(connection);
            return;
        }
        sent = static_cast<size_t>(std::max<ssize_t>(result, 0));
        credit.forwarded += static_cast<uint32_t>(sent);
        vsock_counters_.bytes_to_host += sent;
    }
    if (sent < header.len)
        connection.buffer.append(chain.readable(), sizeof(VsockHeader) + sent, header.len - sent);
}

void VsockDevice::accept_from_guest(const VsockHeader& header) {
    if (!room_for_one_more()) {
        vsock_counters_.refused++;
        queue_reset(header);
        return;
    }
    auto fd = listener_.connect_to(header.dst_port);
    auto socket = fd ? make_socket(std::move(*fd)) : std::unexpected(std::move(fd).error());
    if (!socket) {
        vsock_counters_.refused++;
        queue_reset(header);
        return;
    }
    auto connection = std::make_unique<Connection>();
    connection->ports = {.host = header.dst_port, .guest = header.src_port};
    connection->socket = std::move(*socket);
    connection->phase = Phase::established;
    connection->credit.heard(header);
    connection->pending = Connection::kResponse;
    vsock_counters_.connections++;
    settle(insert(std::move(connection)));
}

// RST to the sender of `answered`.
void VsockDevice::queue_reset(const VsockHeader& answered) {
    VsockHeader header = {};
    header.src_cid = answered.dst_cid;
    header.dst_cid = answered.src_cid;
    header.src_port = answered.dst_port;
    header.dst_port = answered.src_port;
    header.type = answered.type;
    header.op = VIRTIO_VSOCK_OP_RST;
    resets_.push_back(header);
}

}  // namespace spore
