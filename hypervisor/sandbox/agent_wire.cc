#include "hypervisor/sandbox/agent_wire.h"
#include "hypervisor/base/agent_limits.h"

#include <sys/socket.h>

namespace spore {

namespace {

constexpr const char* kHasEnded = "agent: the connection has ended";

}  // namespace

std::optional<int> poll_ms_until(AgentClient::Deadline deadline) {
    const auto now = AgentClient::Deadline::clock::now();
    if (deadline <= now)
        return std::nullopt;
    // The subtraction of a far deadline must not overflow, and poll(2) takes an int.
    constexpr std::chrono::hours kLongest{1};
    if (deadline >= now + kLongest)
        return static_cast<int>(std::chrono::milliseconds(kLongest).count());
    return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count());
}

Error error_of(const wire::Error& error) {
    return {from_wire(error.code()), std::string(view(error.message()))};
}

Status AgentClient::Wire::greet(Deadline deadline) {
    const auto* frame =
        TRY(ask(wire::CreateHello(buffer(), kAgentProtocolMin, kAgentProtocolMax), deadline));
    const auto* reply = frame->body_as_HelloReply();
    if (reply == nullptr)
        return fail(Code::corrupt, "agent: does not answer Hello");
    if (reply->version() < kAgentProtocolMin || reply->version() > kAgentProtocolMax) {
        return fail(Code::version_mismatch, "agent: chose protocol version " +
                                                std::to_string(reply->version()) +
                                                ", which was not offered");
    }
    info = {.protocol = reply->version(),
            .version = std::string(view(reply->agent_version())),
            .boot_id = std::string(view(reply->boot_id())),
            .sealed = reply->state() != wire::State::ready};
    return {};
}

void AgentClient::Wire::take_over(const AgentCarried& carried, std::string_view line) {
    info = {.protocol = carried.protocol,
            .version = carried.version,
            .boot_id = {},  // the next identity brings another
            .sealed = true};
    last_stream_ = carried.last_stream;
    const auto bytes = std::as_bytes(std::span(line));
    out_.insert(out_.end(), bytes.begin(), bytes.end());
}

Status AgentClient::Wire::usable() const {
    if (broken())
        return fail(Code::unavailable, why_closed_);
    return {};
}

void AgentClient::Wire::close(std::string why) {
    if (broken())
        return;
    socket_.reset();
    why_closed_ = std::move(why);
}

void AgentClient::Wire::release(UniqueFd& socket, FrameReader& received,
                                std::vector<std::byte>& unsent) {
    out_.erase(out_.begin(), out_.begin() + static_cast<ptrdiff_t>(out_sent_));
    out_sent_ = 0;
    unsent = std::move(out_);
    received = std::move(reader_);
    socket = std::move(socket_);
    why_closed_ = "agent: the connection was given away";
}

Status AgentClient::Wire::queue(std::span<const std::byte> frame) {
    TRY(usable());
    if (frame.size() - sizeof(uint32_t) > limits::kFrameBytesMax) {
        return fail(Code::invalid_argument,
                    "request of " + std::to_string(frame.size() - sizeof(uint32_t)) +
                        " bytes: must be at most " + std::to_string(limits::kFrameBytesMax));
    }
    out_.insert(out_.end(), frame.begin(), frame.end());
    return {};
}

Status AgentClient::Wire::turn(Deadline deadline, std::span<pollfd> others) {
    TRY(usable());
    TRY(write());  // most often the socket takes it all, and poll need not wait for it
    std::vector<pollfd> waiting(others.begin(), others.end());
    const bool writing = out_sent_ < out_.size();
    waiting.push_back({socket_.get(), static_cast<short>(POLLIN | (writing ? POLLOUT : 0)), 0});
    const auto timeout_ms = poll_ms_until(deadline);
    if (!timeout_ms) {
        close("agent: the connection was given up at a deadline");
        return fail(Code::timeout, "agent: no answer within the time allowed");
    }
    if (::poll(waiting.data(), waiting.size(), *timeout_ms) < 0) {
        if (errno == EINTR)
            return {};
        return fail_errno("poll");
    }
    for (size_t i = 0; i < others.size(); ++i)
        others[i].revents = waiting[i].revents;
    const short ready = waiting.back().revents;
    if ((ready & POLLOUT) != 0)
        TRY(write());
    if ((ready & (POLLIN | POLLHUP | POLLERR)) != 0)
        TRY(read());
    return {};
}

Status AgentClient::Wire::write() {
    while (out_sent_ < out_.size()) {
        const ssize_t count = ::send(socket_.get(), out_.data() + out_sent_,
                                     out_.size() - out_sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        // A peer that has gone may have said why: that is still to be read.
        if (count < 0 && (errno == EAGAIN || errno == EPIPE || errno == ECONNRESET))
            return {};
        if (count < 0) {
            close(kHasEnded);
            return fail_errno("agent: send");
        }
        out_sent_ += static_cast<size_t>(count);
    }
    out_.clear();
    out_sent_ = 0;
    return {};
}

Status AgentClient::Wire::read() {
    const auto room = reader_.room();
    const ssize_t count = ::recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return {};
    if (count <= 0) {
        close(kHasEnded);
        return fail(Code::unavailable, kHasEnded);
    }
    reader_.received(static_cast<size_t>(count));
    return {};
}

Result<const wire::Frame*> AgentClient::Wire::next(uint32_t stream) {
    while (true) {
        auto frame = reader_.next();
        if (!frame) {
            close("agent: " + frame.error().message);
            return std::unexpected(std::move(frame).error().within("agent"));
        }
        if (*frame == nullptr)
            return nullptr;
        if ((*frame)->stream() == 0) {
            const auto* error = (*frame)->body_as_Error();
            Error reason = error != nullptr
                               ? error_of(*error)
                               : Error{Code::corrupt, "agent: stream 0 has no error on it"};
            close(reason.message);
            return std::unexpected(std::move(reason));
        }
        if ((*frame)->stream() == stream)
            return frame;
    }
}

Result<const wire::Frame*> AgentClient::Wire::answer(uint32_t stream, Deadline deadline) {
    while (true) {
        const auto* frame = TRY(next(stream));
        if (frame == nullptr) {
            TRY(turn(deadline));
            continue;
        }
        if (const auto* error = frame->body_as_Error())
            return std::unexpected(error_of(*error));
        return frame;
    }
}

}  // namespace spore
