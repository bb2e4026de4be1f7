#include "agent/connection.h"

#include <sys/socket.h>

#include "agent/request.h"
#include "agent/server.h"
#include "agent/version.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// Above what any of ours has to say: whatever of the request it names, a frame holds it.
constexpr size_t kMessageBytesMax = 4 * limits::kKiB;
static_assert(kMessageBytesMax < limits::kFrameBytesMax);
// Before others have their turn: two large frames of file bytes, each in two receives.
constexpr int kReceivesAtOnce = 4;

}  // namespace

Connection::Connection(Server& server, UniqueFd socket) : server_(server) {
    socket_.open(server.poller(), std::move(socket), [this](uint32_t events) { on_ready(events); });
}

Connection::~Connection() = default;

Status Connection::start() {
    return socket_.want(kReadable);
}

void Connection::on_ready(uint32_t events) {
    if (dead_)
        return;
    if ((events & EPOLLOUT) != 0)
        flush();
    if ((events & EPOLLIN) != 0)
        receive();
    else if ((events & (EPOLLERR | EPOLLHUP)) != 0)
        dead_ = true;
    watch_socket();
}

// As long as it fills what there is room for: the socket has more then, most likely.
void Connection::receive() {
    for (int turn = 0; turn < kReceivesAtOnce && !dead_ && !congested(); ++turn) {
        const auto room = reader_.room();
        const ssize_t count = ::recv(socket_.fd(), room.data(), room.size(), MSG_DONTWAIT);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (count <= 0) {
            dead_ = true;
            return;
        }
        reader_.received(static_cast<size_t>(count));
        serve_frames();
        if (static_cast<size_t>(count) < room.size())
            return;
    }
}

void Connection::serve_frames() {
    while (!dead_ && !congested()) {
        const auto frame = reader_.next();
        if (!frame)
            return end(frame.error());
        if (*frame == nullptr)
            return;
        if (const Status served = serve(**frame); !served)
            return end(served.error());
    }
}

// An error ends the connection; what fails for one request alone is answered on its stream.
Status Connection::serve(const wire::Frame& frame) {
    if (frame.stream() == 0)
        return fail(Code::invalid_argument, "stream 0: is not a client's");
    if (version_ == 0)
        return serve_hello(frame);
    switch (frame.body_type()) {
        case wire::Body::StdinData:
        case wire::Body::FileData:
        case wire::Body::Credit:
        case wire::Body::Signal:
        case wire::Body::WindowSize:
        case wire::Body::Cancel:
            break;
        default:
            return serve_request(frame);
    }
    const auto found = streams_.find(frame.stream());
    // It may have crossed the last frame of its stream.
    if (found == streams_.end() || found->second->done())
        return {};
    if (frame.body_type() != wire::Body::Cancel)
        return found->second->take(frame);
    found->second->cancel();
    return {};
}

Status Connection::serve_hello(const wire::Frame& frame) {
    const auto* hello = frame.body_as_Hello();
    if (hello == nullptr)
        return fail(Code::invalid_argument, "first frame: must be Hello");
    const auto version = agent_protocol_with(hello->version_min(), hello->version_max());
    if (!version) {
        return fail(Code::version_mismatch,
                    "protocol versions " + std::to_string(hello->version_min()) + " to " +
                        std::to_string(hello->version_max()) + ": this agent speaks " +
                        std::to_string(kAgentProtocolMin) + " to " +
                        std::to_string(kAgentProtocolMax));
    }
    version_ = *version;
    const auto agent_version = buffer().CreateString(kAgentVersion);
    const auto boot_id = buffer().CreateString(server_.guest().boot_id());
    send(frame.stream(), wire::CreateHelloReply(buffer(), *version, agent_version, boot_id,
                                                server_.guest().state()));
    return {};
}

Status Connection::serve_request(const wire::Frame& frame) {
    const uint32_t id = frame.stream();
    if (const auto found = streams_.find(id); found != streams_.end()) {
        if (!found->second->done()) {
            return fail(Code::invalid_argument, "stream " + std::to_string(id) + ": is in use");
        }
        streams_.erase(found);
    }
    auto stream = open_stream(frame);
    if (!stream)
        send_error(id, stream.error());
    else if (*stream != nullptr)
        keep(std::move(*stream));
    return {};
}

void Connection::keep(std::unique_ptr<Stream> stream) {
    const uint32_t id = stream->id();
    streams_.insert_or_assign(id, std::move(stream));
}

Result<std::unique_ptr<Stream>> Connection::open_stream(const wire::Frame& frame) {
    const wire::Body body = frame.body_type();
    const RequestKind* kind = find_request(body);
    if (kind == nullptr || agent_protocol_of(body) > version_) {
        return fail(Code::invalid_argument, "request of kind " +
                                                std::to_string(static_cast<int>(body)) +
                                                ": is not known to this agent");
    }
    if (kind->serve == nullptr) {
        return fail(Code::host_unsupported,
                    std::string(wire::EnumNameBody(body)) + ": is not served by this agent");
    }
    if (!kind->when_sealed)
        TRY(server_.guest().may_run());
    if (streams_.size() >= limits::kAgentStreamsMax) {
        return fail(Code::resource_exhausted, "this connection has " +
                                                  std::to_string(limits::kAgentStreamsMax) +
                                                  " streams open already");
    }
    return kind->serve({server_, *this, frame.stream(), frame});
}

void Connection::send_error(uint32_t stream, const Error& error) {
    const auto message =
        buffer().CreateString(std::string_view(error.message).substr(0, kMessageBytesMax));
    send(stream, wire::CreateError(buffer(), to_wire(error.code), message));
}

void Connection::write(std::span<const std::byte> frame) {
    if (dead_)
        return;
    if (backlog_.empty()) {
        const ssize_t count =
            ::send(socket_.fd(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count >= 0)
            frame = frame.subspan(static_cast<size_t>(count));
        else if (errno != EAGAIN && errno != EINTR)
            dead_ = true;
    }
    if (frame.empty() || dead_)
        return;
    if (backlog_sent_ > backlog_.size() / 2) {
        backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<ptrdiff_t>(backlog_sent_));
        backlog_sent_ = 0;
    }
    backlog_.insert(backlog_.end(), frame.begin(), frame.end());
    watch_socket();
}

void Connection::flush() {
    const bool was_congested = congested();
    while (backlog_sent_ < backlog_.size()) {
        const ssize_t count = ::send(socket_.fd(), backlog_.data() + backlog_sent_,
                                     backlog_.size() - backlog_sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            dead_ = errno != EAGAIN;
            break;
        }
        backlog_sent_ += static_cast<size_t>(count);
    }
    if (backlog_sent_ == backlog_.size()) {
        backlog_ = {};
        backlog_sent_ = 0;
    }
    if (!full() || (was_congested && !congested()))
        resume();
}

// The client reads again: serves the frames that waited, and the streams go on.
void Connection::resume() {
    serve_frames();
    for (auto& [id, stream] : streams_)
        stream->resume();
}

// Reads from a client only while that reads too. (Its streams notice congestion by themselves.)
void Connection::watch_socket() {
    if (dead_)
        return;
    const uint32_t events = (congested() ? 0 : kReadable) | (backlog_.empty() ? 0 : kWritable);
    if (!socket_.want(events))
        dead_ = true;
}

void Connection::end(const Error& error) {
    send_error(0, error);
    dead_ = true;
}

void Connection::sweep() {
    std::erase_if(streams_, [](const auto& entry) { return entry.second->done(); });
}

}  // namespace spore
