#include "agent/forward.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent/forward_line.h"
#include "agent/log.h"
#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"
#include "schema/frame.h"

namespace spore {

namespace {

bool again() {
    return errno == EAGAIN || errno == EINTR;
}

}  // namespace

Forward::Forward(Server& server, UniqueFd client) : server_(server) {
    client_.open(server.poller(), std::move(client), [this](uint32_t events) {
        on_client(events);
        update();
    });
}

Status Forward::start() {
    return client_.want(kReadable);
}

void Forward::on_client(uint32_t events) {
    if (stage_ == Stage::line)
        receive_line();
    else if (stage_ == Stage::connecting && (events & (EPOLLERR | EPOLLHUP)) != 0)
        stage_ = Stage::done;  // nobody waits for it any more
    else if (stage_ == Stage::passing)
        pass(kClient, events);
}

void Forward::on_target(uint32_t events) {
    if (stage_ == Stage::connecting) {
        if (const Status connected = finish_connecting(); !connected)
            refuse(connected.error());
    } else if (stage_ == Stage::passing) {
        pass(kTarget, events);
    }
}

void Forward::receive_line() {
    char bytes[limits::kForwardLineBytesMax];
    const size_t room = limits::kForwardLineBytesMax - line_.size();
    const ssize_t count = ::recv(client_.fd(), bytes, room, MSG_DONTWAIT);
    if (count < 0 && again())
        return;
    if (count <= 0) {
        stage_ = Stage::done;
        return;
    }
    line_.append(bytes, static_cast<size_t>(count));
    const size_t newline = line_.find('\n');
    if (newline == std::string::npos) {
        if (line_.size() == limits::kForwardLineBytesMax)
            refuse(
                {Code::invalid_argument,
                 "line: must be below " + std::to_string(limits::kForwardLineBytesMax) + " bytes"});
        return;
    }
    // What follows the line is for whom it names.
    const auto rest = std::as_bytes(std::span(line_).subspan(newline + 1));
    ways_[kClient].held.assign(rest.begin(), rest.end());
    line_.resize(newline);
    if (const Status served = serve_line(line_); !served)
        refuse(served.error());
}

Status Forward::serve_line(std::string_view line) {
    TRY(server_.guest().may_run());
    const ForwardTarget target = TRY(parse_forward_line(line));
    what_ = target.words();
    port_ = target.port;
    return port_ != 0 ? try_loopback() : connect_unix(target.path);
}

Status Forward::try_loopback() {
    const int family = attempt_ == 0 ? AF_INET : AF_INET6;
    UniqueFd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return fail_errno(what_);
    const int on = 1;  // bytes are passed on as they come, without waiting for more
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (family == AF_INET) {
        sockaddr_in address = {};
        address.sin_family = AF_INET;
        address.sin_port = htons(port_);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return connect_target(std::move(socket), &address, sizeof(address));
    }
    sockaddr_in6 address = {};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port_);
    address.sin6_addr = IN6ADDR_LOOPBACK_INIT;
    return connect_target(std::move(socket), &address, sizeof(address));
}

Status Forward::connect_unix(std::string_view path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return fail_errno(what_);
    return connect_target(std::move(socket), &address, sizeof(address));
}

Status Forward::connect_target(UniqueFd socket, const void* address, uint32_t size) {
    stage_ = Stage::connecting;
    const bool connected =
        ::connect(socket.get(), static_cast<const sockaddr*>(address), size) == 0;
    const int error = errno;
    Watch& target = targets_[attempt_];
    target.open(server_.poller(), std::move(socket), [this](uint32_t events) {
        on_target(events);
        update();
    });
    if (connected) {
        begin_passing();
        return {};
    }
    if (error == EINPROGRESS)
        return target.want(kWritable);
    // UNIX sockets know at once; EAGAIN is a full backlog (connect(2)).
    return fail_errno(what_, error);
}

// The target's socket has come to a result.
Status Forward::finish_connecting() {
    int error = 0;
    socklen_t size = sizeof(error);
    Watch& target = targets_[attempt_];
    if (::getsockopt(target.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        return fail_errno(what_);
    if (error == 0) {
        begin_passing();
        return {};
    }
    (void)target.want(0);
    if (attempt_ == 0) {
        attempt_ = 1;
        refused_ = error;
        if (try_loopback())
            return {};
    }
    // A guest without IPv6 fails differently there, and that is not why.
    if (refused_ == ECONNREFUSED)
        return fail(Code::unavailable, what_ + ": nobody listens there in the guest");
    return fail_errno(what_, refused_);
}

void Forward::refuse(const Error& error) {
    std::string line = "ERROR " + std::string(code_name(error.code)) + " " + error.message;
    std::ranges::replace(line, '\n', ' ');
    line += '\n';
    // The first bytes on a socket: there is room for them, or nobody for them.
    (void)!::send(client_.fd(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    stage_ = Stage::done;
}

void Forward::begin_passing() {
    constexpr std::string_view kOk = "OK\n";
    stage_ = Stage::passing;
    if (::send(client_.fd(), kOk.data(), kOk.size(), MSG_NOSIGNAL | MSG_DONTWAIT) !=
        static_cast<ssize_t>(kOk.size()))
        stage_ = Stage::done;
}

void Forward::pass(int side, uint32_t events) {
    const uint32_t trouble = events & (EPOLLERR | EPOLLHUP);
    Way& to_it = ways_[1 - side];
    if ((events & EPOLLOUT) != 0 || trouble != 0) {
        const auto held = std::exchange(to_it.held, {});
        send_from(1 - side, held);
    }
    if ((events & EPOLLIN) != 0 || trouble != 0)
        read_from(side);
    // It has ended its own way before, and now takes nothing more either.
    if (trouble != 0 && !ways_[side].reading && !to_it.over)
        nobody_takes(1 - side);
}

// One chunk, for the others' turns.
void Forward::read_from(int side) {
    Way& way = ways_[side];
    if (!way.reading || !way.held.empty() || stage_ != Stage::passing)
        return;
    const auto scratch = server_.scratch();
    const ssize_t count = ::recv(end(side).fd(), scratch.data(), scratch.size(), MSG_DONTWAIT);
    if (count < 0 && again())
        return;
    if (count < 0)
        stage_ = Stage::done;  // reset: that is no end to be passed on as one
    else if (count == 0)
        end_way(side);
    else
        send_from(side, scratch.first(static_cast<size_t>(count)));
}

void Forward::send_from(int side, std::span<const std::byte> bytes) {
    if (bytes.empty())
        return;
    Way& way = ways_[side];
    const ssize_t count =
        ::send(end(1 - side).fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && !again())
        return nobody_takes(side);
    bytes = bytes.subspan(static_cast<size_t>(std::max<ssize_t>(count, 0)));
    way.held.assign(bytes.begin(), bytes.end());
}

// `side` has said that nothing more comes of it.
void Forward::end_way(int side) {
    ways_[side].reading = false;
    ways_[side].over = true;
    ::shutdown(end(1 - side).fd(), SHUT_WR);
}

// The other side does not take what `side` says; what it says itself still passes.
void Forward::nobody_takes(int side) {
    ways_[side] = {.held = {}, .reading = false, .over = true};
    ::shutdown(end(side).fd(), SHUT_RD);
}

void Forward::update() {
    if (stage_ == Stage::passing && ways_[kClient].over && ways_[kTarget].over)
        stage_ = Stage::done;
    if (stage_ == Stage::done) {
        (void)client_.want(0);
        (void)end(kTarget).want(0);
        return;
    }
    constexpr uint32_t kErrorOnly = EPOLLET;  // says EPOLLHUP and EPOLLERR, once
    if (stage_ == Stage::connecting && !client_.want(kErrorOnly))
        stage_ = Stage::done;
    if (stage_ != Stage::passing)
        return;
    for (const int side : {kClient, kTarget}) {
        const bool reads = ways_[side].reading && ways_[side].held.empty();
        uint32_t events = (reads ? kReadable : 0) | (ways_[1 - side].held.empty() ? 0 : kWritable);
        // Its end can still be told where it is not to be read any more.
        if (events == 0 && !ways_[side].reading)
            events = kErrorOnly;
        if (!end(side).want(events))
            stage_ = Stage::done;
    }
}

Status Forwards::listen(UniqueFd socket) {
    if (::listen(socket.get(), kListenBacklog) != 0)
        return fail_errno("listen for forwards");
    listener_.open(server_.poller(), std::move(socket), [this](uint32_t) { accept(); });
    return listener_.want(kReadable);
}

void Forwards::accept() {
    if (forwards_.size() >= limits::kAgentForwardsMax)
        return;
    UniqueFd socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
        paused_ = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        return;
    }
    forwards_.emplace_back(server_, std::move(socket));
    if (!forwards_.back().start())
        forwards_.pop_back();
}

void Forwards::sweep() {
    if (std::erase_if(forwards_, [](const Forward& each) { return each.done(); }) > 0)
        paused_ = false;
    const bool room = !paused_ && forwards_.size() < limits::kAgentForwardsMax;
    if (listener_ && !listener_.want(room ? kReadable : 0))
        log_line("the listener for forwards cannot be watched any more");
}

}  // namespace spore
