#include "agent/connection.h"

#include <sys/socket.h>

#include "agent/server.h"
#include "agent/version.h"

namespace spore {

Connection::Connection(Server& server, UniqueFd socket) : server_(server) {
    socket_.open(server.poller(), std::move(socket), [this](uint32_t events) { on_ready(events); });
}

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

void Connection::receive() {
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
    if (!greeted_)
        return serve_hello(frame);
    switch (frame.body_type()) {
        case wire::Body::StdinData:
        case wire::Body::Credit:
        case wire::Body::Signal: {
            const auto found = commands_.find(frame.stream());
            // It may have crossed the last frame of its stream.
            if (found == commands_.end() || found->second->done())
                return {};
            return serve_data(frame, *found->second);
        }
        default:
            return serve_request(frame);
    }
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
    greeted_ = true;
    const auto agent_version = buffer().CreateString(kAgentVersion);
    const auto boot_id = buffer().CreateString(server_.guest().boot_id());
    send(frame.stream(), wire::CreateHelloReply(buffer(), *version, agent_version, boot_id,
                                                server_.guest().state()));
    return {};
}

Status Connection::serve_data(const wire::Frame& frame, Command& command) {
    if (const auto* data = frame.body_as_StdinData())
        return command.take_stdin(*data);
    if (const auto* credit = frame.body_as_Credit())
        return command.take_credit(*credit);
    return command.take_signal(*frame.body_as_Signal());
}

Status Connection::serve_request(const wire::Frame& frame) {
    const uint32_t stream = frame.stream();
    if (const auto found = commands_.find(stream); found != commands_.end()) {
        if (!found->second->done())
            return fail(Code::invalid_argument,
                        "stream " + std::to_string(stream) + ": is in use by a command");
        commands_.erase(found);
    }
    Guest& guest = server_.guest();
    switch (frame.body_type()) {
        case wire::Body::Ping:
            send(stream, wire::CreatePong(buffer()));
            return {};
        case wire::Body::Exec:
            serve_exec(stream, *frame.body_as_Exec());
            return {};
        case wire::Body::Identity:
            answer(stream, guest.identify(*frame.body_as_Identity()));
            return {};
        case wire::Body::PrepareSnapshot:
            answer(stream, guest.prepare_snapshot());
            return {};
        case wire::Body::SetClock:
            answer(stream, guest.set_clock(*frame.body_as_SetClock()));
            return {};
        case wire::Body::GrowRoot:
            answer(stream, guest.grow_root());
            return {};
        case wire::Body::PowerOff:
            answer(stream, server_.request_power_off());
            return {};
        default:
            send_error(stream, Error{Code::invalid_argument,
                                     "request of kind " +
                                         std::to_string(static_cast<int>(frame.body_type())) +
                                         ": is not known to this agent"});
            return {};
    }
}

void Connection::serve_exec(uint32_t stream, const wire::Exec& request) {
    auto command = std::make_unique<Command>(*this, server_, stream);
    if (const Status started = command->start(request); !started)
        send_error(stream, started.error());
    else
        commands_.emplace(stream, std::move(command));
}

void Connection::answer(uint32_t stream, const Status& status) {
    if (status)
        send(stream, wire::CreateDone(buffer()));
    else
        send_error(stream, status.error());
}

void Connection::send_error(uint32_t stream, const Error& error) {
    const auto message = buffer().CreateString(error.message);
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
    if (was_congested && !congested())
        resume();
}

// The client reads again: serves the frames that waited, and reads the commands' output.
void Connection::resume() {
    serve_frames();
    for (auto& [stream, command] : commands_)
        command->update();
}

// Reads from a client only while that reads too. (Its commands notice congestion by themselves.)
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
    std::erase_if(commands_, [](const auto& entry) { return entry.second->done(); });
}

}  // namespace spore
