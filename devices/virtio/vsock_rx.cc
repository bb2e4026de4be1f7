// The vsock device's rx queue: packets to the guest, connection by connection in turn.

#include <sys/socket.h>

#include <algorithm>

#include "devices/virtio/vsock.h"

namespace spore {

namespace {
// Turns of one pass, so that other work on the loop gets its own.
constexpr unsigned kTurnsPerPass = 64;
// What a connection's first recv asks for; more once its host program fills that.
constexpr uint32_t kReadGoalMin = 4 * limits::kKiB;
// Pieces of guest memory in one recvmsg: below the kernel's 1024 (UIO_MAXIOV) by one chain.
constexpr size_t kPiecesMax = 512;
static_assert(kPiecesMax + limits::kChainDescriptorsMax <= 1024);
}  // namespace

// Says whether the pass ended with more to do at once.
bool VsockDevice::serve_rx() {
    Queue& rx = queues()[kRxQueue];
    rx.disable_kicks();
    for (unsigned turns = 0; !failed() && !reset_unread_; turns++) {
        while (!ready_.empty() && !ready_.front()->wants_rx()) {
            ready_.front()->queued = false;
            ready_.pop_front();
        }
        if (resets_.empty() && ready_.empty())
            return false;
        if (turns == kTurnsPerPass)
            return true;
        bool served = false;
        if (!resets_.empty()) {
            served = send_packet(resets_.front());
            if (served)
                resets_.pop_front();
        } else {
            Connection* connection = ready_.front();
            served = serve_one(*connection);
            if (served && !ready_.empty() && ready_.front() == connection) {
                ready_.pop_front();
                ready_.push_back(connection);
            }
        }
        // No buffer: the guest kicks when it adds some, unless it just did.
        if (!served && !failed()) {
            rx_.give_back(false);
            if (!rx.enable_kicks())
                return false;
            rx.disable_kicks();
        }
    }
    return false;
}

// One turn of one connection. False if there is no buffer for it.
bool VsockDevice::serve_one(Connection& connection) {
    return connection.pending != 0 ? send_control(connection) : send_data(connection);
}

bool VsockDevice::send_control(Connection& connection) {
    struct Row {
        uint8_t bit;
        uint16_t op;
    };
    static constexpr Row kRows[] = {
        {Connection::kReset, VIRTIO_VSOCK_OP_RST},
        {Connection::kRequest, VIRTIO_VSOCK_OP_REQUEST},
        {Connection::kResponse, VIRTIO_VSOCK_OP_RESPONSE},
        {Connection::kCreditUpdate, VIRTIO_VSOCK_OP_CREDIT_UPDATE},
        {Connection::kCreditRequest, VIRTIO_VSOCK_OP_CREDIT_REQUEST},
        {Connection::kShutdown, VIRTIO_VSOCK_OP_SHUTDOWN},
    };
    for (const Row& row : kRows) {
        if ((connection.pending & row.bit) == 0)
            continue;
        VsockHeader header = header_for(connection, row.op);
        if (row.bit == Connection::kShutdown)
            header.flags = connection.host_shut;
        if (!send_packet(header))
            return false;
        connection.pending &= static_cast<uint8_t>(~row.bit);
        connection.credit.published = header.fwd_cnt;
        connection.credit.announced = true;
        // Every header carries our credit: an update that waits has become needless.
        connection.pending &= static_cast<uint8_t>(~Connection::kCreditUpdate);
        if (row.bit == Connection::kReset)
            remove(connection);
        return true;
    }
    return true;
}

VsockHeader VsockDevice::header_for(Connection& connection, uint16_t op) {
    VsockHeader header = {};
    header.src_cid = static_cast<uint64_t>(ContextId::host);
    header.dst_cid = static_cast<uint64_t>(guest_cid_);
    header.src_port = connection.ports.host;
    header.dst_port = connection.ports.guest;
    header.type = VIRTIO_VSOCK_TYPE_STREAM;
    header.op = op;
    header.buf_alloc = limits::kVsockBufferBytes;
    header.fwd_cnt = connection.credit.forwarded;
    return header;
}

// Sends a packet without payload. False if there is no buffer.
bool VsockDevice::send_packet(const VsockHeader& header) {
    auto buffer = rx_.first(sizeof(header), vsock_counters_.bad_buffers);
    if (!buffer) {
        device_error(buffer.error(), kRxQueue);
        return false;
    }
    if (*buffer == nullptr)
        return false;
    (void)(*buffer)->write(header);  // its size was asked for
    rx_.push(sizeof(header));
    if (header.op == VIRTIO_VSOCK_OP_RST)
        vsock_counters_.resets_sent++;
    return true;
}

// Collects in pieces_ the payload parts of as many buffers as `bytes` need and there are.
void VsockDevice::gather(size_t bytes) {
    pieces_.clear();
    size_t gathered = 0;
    for (size_t index = 0; gathered < bytes && pieces_.size() < kPiecesMax; index++) {
        auto buffer = index == 0 ? rx_.first(sizeof(VsockHeader) + 1, vsock_counters_.bad_buffers)
                                 : rx_.at(index, sizeof(VsockHeader) + 1);
        if (!buffer) {
            device_error(buffer.error(), kRxQueue);
            return;
        }
        if (*buffer == nullptr)
            return;
        gathered += slice((*buffer)->writable(), sizeof(VsockHeader), bytes - gathered, pieces_);
    }
}

// Receives straight into the guest's buffers, as many as the host program fills, a packet in each.
// False if there is no buffer.
bool VsockDevice::send_data(Connection& connection) {
    VsockCredit& credit = connection.credit;
    connection.read_goal = std::max(connection.read_goal, kReadGoalMin);
    size_t goal = std::min(connection.read_goal, credit.room());
    gather(goal);
    if (failed() || pieces_.empty())
        return false;
    msghdr message = {};
    message.msg_iov = pieces_.data();
    message.msg_iovlen = pieces_.size();
    ssize_t result = ::recvmsg(connection.socket->file.fd(), &message, MSG_DONTWAIT);
    if (result < 0 && errno == EINTR)
        return true;  // still readable: its turn comes again
    if (result < 0 && errno == EAGAIN) {
        connection.readable = false;
        arm(connection);
        return true;
    }
    if (result <= 0) {  // an error means that the program is gone without reading everything
        host_end_of_stream(connection);
        return true;
    }
    auto left = static_cast<size_t>(result);
    vsock_counters_.bytes_to_guest += left;
    VsockHeader header = header_for(connection, VIRTIO_VSOCK_OP_RW);
    while (left > 0) {
        DescriptorChain& buffer = **rx_.at(0, 0);  // gathered above
        header.len =
            static_cast<uint32_t>(std::min(left, buffer.writable_bytes() - sizeof(VsockHeader)));
        (void)buffer.write(header);
        rx_.push(static_cast<uint32_t>(sizeof(VsockHeader)) + header.len);
        credit.sent += header.len;
        left -= header.len;
    }
    credit.published = header.fwd_cnt;
    connection.pending &= static_cast<uint8_t>(~Connection::kCreditUpdate);
    size_t asked = 0;
    for (const iovec& piece : pieces_)
        asked += piece.iov_len;
    if (static_cast<size_t>(result) < asked) {
        connection.readable = false;  // most likely: the wait says so at once if not
        connection.read_goal /= 2;    // a stream has its gaps
    } else if (connection.read_goal < limits::kVsockTurnBytes) {
        connection.read_goal *= 2;
    }
    settle(connection);
    return true;
}

}  // namespace spore
