// A Unix stream socket as back end. UNTRUSTED: the peer's lengths. Fuzz target: fuzz-net.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cassert>
#include <cstring>
#include <deque>
#include <vector>

#include "devices/virtio/net_backend.h"
#include "hypervisor/base/mapping.h"

namespace spore {

namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kFramedBytesMax = kLengthBytes + limits::kNetFrameBytesMax;
// Twice the largest frame: one can be completed while the next comes in.
constexpr size_t kReceiveBytes = (2 * kFramedBytesMax + 4095) & ~size_t{4095};
constexpr size_t kSendBuffersMax = 1024;  // IOV_MAX

class SocketBackend final : public NetBackend {
  public:
    SocketBackend(RingFile file, Mapping buffer, EventLoop& loop)
        : loop_(loop), file_(std::move(file)), buffer_(std::move(buffer)) {}

    bool has_offloads() const override { return false; }
    void start(uint64_t features) override;
    void stop() override;
    void pump() override;
    bool can_send() const override { return queue_.size() < limits::kNetSendsMax; }
    void send(NetSend send) override;

  private:
    struct Frame {
        NetSend packet;
        uint32_t length = 0;  // as it goes over the socket
        size_t size() const { return kLengthBytes + packet.frame_bytes; }
    };

    bool deliver();
    void receive_more();
    void on_received(int32_t result);
    void lose_link();

    void send_more();
    void on_sent(int32_t result);
    void count_sent(size_t bytes);
    void abandon_sends(bool keep_the_rest);
    void append(Frame& frame, size_t offset);

    EventLoop& loop_;
    RingFile file_;
    Mapping buffer_;
    bool running_ = false;
    bool link_up_ = true;

    size_t begin_ = 0;  // received and not delivered: [begin_, end_) of buffer_
    size_t end_ = 0;
    Operation receive_{[this](int32_t result) { on_received(result); }};

    std::deque<Frame> queue_;
    size_t head_sent_ = 0;         // bytes of the first frame that are gone
    std::vector<std::byte> rest_;  // of a frame cut in the middle by stop(): goes first
    std::vector<iovec> buffers_;
    msghdr message_ = {};
    Operation send_{[this](int32_t result) { on_sent(result); }};
};

void SocketBackend::start(uint64_t) {
    running_ = link_up_;
    pump();
    if (running_ && !rest_.empty() && !send_.in_flight())
        send_more();
}

void SocketBackend::stop() {
    running_ = false;
    loop_.cancel(receive_);
    loop_.cancel(send_);
}

void SocketBackend::pump() {
    if (running_ && !receive_.in_flight() && deliver())
        receive_more();
}

// Hands on whole frames; true if more can be received.
bool SocketBackend::deliver() {
    std::span<const std::byte> bytes = buffer_.span();
    while (end_ - begin_ >= kLengthBytes) {
        uint32_t length = 0;
        std::memcpy(&length, bytes.data() + begin_, kLengthBytes);
        length = __builtin_bswap32(length);
        if (length > limits::kNetFrameBytesMax) {  // what follows cannot be told apart any more
            lose_link();
            return false;
        }
        if (end_ - begin_ - kLengthBytes < length)
            break;
        if (length < ETH_HLEN)
            sink_->receive_dropped();
        else if (!sink_->receive(NetHeader{}, bytes.subspan(begin_ + kLengthBytes, length)))
            return false;
        begin_ += kLengthBytes + length;
    }
    return true;
}

void SocketBackend::receive_more() {
    if (begin_ == end_) {
        begin_ = end_ = 0;
    } else if (buffer_.size() - begin_ < kFramedBytesMax) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    assert(end_ < buffer_.size());
    sink_->begin_io();
    loop_.recv(receive_, file_, buffer_.span().subspan(end_));
}

void SocketBackend::on_received(int32_t result) {
    if (result > 0)
        end_ += static_cast<size_t>(result);
    else if (result != -EAGAIN && result != -EINTR && result != -ECANCELED)
        lose_link();
    pump();
    sink_->end_io();
}

void SocketBackend::lose_link() {
    running_ = false;
    if (!std::exchange(link_up_, false))
        return;
    ::shutdown(file_.fd(), SHUT_RDWR);  // also ends what is in flight
    sink_->link_lost();
}

void SocketBackend::send(NetSend packet) {
    assert(running_);
    Frame& frame = queue_.emplace_back();
    frame.length = __builtin_bswap32(static_cast<uint32_t>(packet.frame_bytes));
    frame.packet = std::move(packet);
    if (!send_.in_flight())
        send_more();
}

void SocketBackend::append(Frame& frame, size_t offset) {
    if (offset < kLengthBytes)
        buffers_.push_back(
            {reinterpret_cast<std::byte*>(&frame.length) + offset, kLengthBytes - offset});
    size_t skip = offset < kLengthBytes ? 0 : offset - kLengthBytes;
    slice(frame.packet.chain.readable(), sizeof(NetHeader) + skip, frame.packet.frame_bytes - skip,
          buffers_);
}

// Everything that waits goes in one request, as far as it has room.
void SocketBackend::send_more() {
    buffers_.clear();
    if (!rest_.empty())
        buffers_.push_back({rest_.data(), rest_.size()});
    size_t offset = head_sent_;
    for (Frame& frame : queue_) {
        if (buffers_.size() + 1 + frame.packet.chain.readable().size() > kSendBuffersMax)
            break;
        append(frame, offset);
        offset = 0;
    }
    message_ = {};
    message_.msg_iov = buffers_.data();
    message_.msg_iovlen = buffers_.size();
    sink_->begin_io();
    loop_.sendmsg(send_, file_, &message_);
}

void SocketBackend::on_sent(int32_t result) {
    if (result > 0)
        count_sent(static_cast<size_t>(result));
    else if (result != -EAGAIN && result != -EINTR && result != -ECANCELED)
        lose_link();
    if (!running_)
        abandon_sends(link_up_);
    else if (!rest_.empty() || !queue_.empty())
        send_more();
    sink_->end_io();
}

void SocketBackend::count_sent(size_t bytes) {
    size_t of_rest = std::min(bytes, rest_.size());
    rest_.erase(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(of_rest));
    head_sent_ += bytes - of_rest;
    while (!queue_.empty() && head_sent_ >= queue_.front().size()) {
        Frame frame = std::move(queue_.front());
        queue_.pop_front();
        head_sent_ -= frame.size();
        sink_->sent(std::move(frame.packet.chain), frame.packet.frame_bytes, true);
    }
}

// Gives all chains back. The peer counts on the end of a frame that has begun: that is copied.
void SocketBackend::abandon_sends(bool keep_the_rest) {
    if (head_sent_ > 0 && keep_the_rest) {
        assert(rest_.empty());
        buffers_.clear();
        append(queue_.front(), head_sent_);
        for (const iovec& buffer : buffers_) {
            auto* bytes = static_cast<const std::byte*>(buffer.iov_base);
            rest_.insert(rest_.end(), bytes, bytes + buffer.iov_len);
        }
    }
    bool cut = std::exchange(head_sent_, 0) > 0 && keep_the_rest;
    while (!queue_.empty()) {
        Frame frame = std::move(queue_.front());
        queue_.pop_front();
        sink_->sent(std::move(frame.packet.chain), frame.packet.frame_bytes, cut);
        cut = false;
    }
}

}  // namespace

Result<UniqueFd> connect_net_socket(const std::string& path) {
    std::string what = "socket '" + path + "'";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    static_assert(sizeof(address.sun_path) == limits::kUnixPathBytesMax);
    if (path.size() >= limits::kUnixPathBytesMax)
        return fail(Code::invalid_argument, what + ": path of " + std::to_string(path.size()) +
                                                " bytes, at most " +
                                                std::to_string(limits::kUnixPathBytesMax - 1));
    path.copy(address.sun_path, path.size());
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return fail_errno(what);
    // Non-blocking: a listener whose backlog is full must not hold us.
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
        return socket;
    if (errno == ECONNREFUSED)
        return fail(Code::unavailable, what + ": nobody listens there");
    if (errno == EAGAIN)
        return fail(Code::unavailable, what + ": the listener takes no connection");
    if (errno == EPROTOTYPE)
        return fail(Code::invalid_argument, what + ": is not a stream socket");
    return fail_errno(what);
}

Result<std::unique_ptr<NetBackend>> make_socket_backend(UniqueFd socket, std::string_view what,
                                                        EventLoop& loop) {
    int type = 0;
    socklen_t size = sizeof(type);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0)
        return fail_errno(what);
    if (type != SOCK_STREAM)
        return fail(Code::invalid_argument, std::string(what) + ": is not a stream socket");
    // The ring waits itself: on a non-blocking file it would not.
    int flags = ::fcntl(socket.get(), F_GETFL);
    if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK) != 0)
        return fail_errno(std::string(what) + ": fcntl");
    auto buffer =
        TRY(Mapping::create(kReceiveBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
    auto file = TRY(loop.add_file(std::move(socket)));
    return std::make_unique<SocketBackend>(std::move(file), std::move(buffer), loop);
}

}  // namespace spore
