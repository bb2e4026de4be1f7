#include "agent/server.h"

#include <linux/vm_sockets.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <csignal>

#include "agent/child.h"
#include "agent/log.h"
#include "agent/stream.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// In one turn of the loop: orphans may end as fast as they are reaped, and clients are to be
// served.
constexpr int kReapedAtOnce = 128;

// What ends the agent: orders to stop, those of ctrl-alt-del, and busybox's halt and poweroff.
constexpr int stop_signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGPWR};

Result<UniqueFd> bind_vsock(uint32_t port) {
    UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return fail_errno("socket of AF_VSOCK");
    sockaddr_vm address = {};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_ANY;
    address.svm_port = port;
    // What it accepts has them too. A kernel that does not know them leaves it at its own 256 KiB.
    const uint64_t bytes = limits::kAgentSocketBytes;
    for (const int option : {SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE})
        (void)::setsockopt(socket.get(), AF_VSOCK, option, &bytes, sizeof(bytes));
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
        return fail_errno("bind to vsock port " + std::to_string(port));
    return socket;
}

Result<UniqueFd> bind_unix(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        return fail(Code::invalid_argument, "socket path of " + std::to_string(path.size()) +
                                                " bytes: must be below " +
                                                std::to_string(sizeof(address.sun_path)));
    }
    path.copy(address.sun_path, path.size());
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return fail_errno("socket of AF_UNIX");
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
        return fail_errno("bind to " + path);
    return socket;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(System& system) {
    std::unique_ptr<Server> server(new Server(system));
    TRY(server->poller_.open());
    TRY(server->open_signals());
    if (UniqueFd log = system.kernel_log())
        server->oom_.open(server->poller_, std::move(log));
    return server;
}

Server::~Server() = default;

Status Server::open_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    for (const int signal : stop_signals)
        sigaddset(&signals, signal);
    // A pipe or socket without a reader is found out by the write.
    if (::signal(SIGPIPE, SIG_IGN) == SIG_ERR || ::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0)
        return fail_errno("block signals");
    UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd)
        return fail_errno("signalfd");
    signals_.open(poller_, std::move(fd), [this](uint32_t) { on_signal(); });
    return signals_.want(kReadable);
}

Status Server::listen_vsock() {
    TRY(listen(TRY(bind_vsock(limits::kAgentPort))));
    return forwards_.listen(TRY(bind_vsock(limits::kAgentForwardPort)));
}

Status Server::listen_unix(const std::string& path) {
    TRY(listen(TRY(bind_unix(path))));
    return forwards_.listen(TRY(bind_unix(path + ".forward")));
}

Status Server::listen(UniqueFd socket) {
    if (::listen(socket.get(), kListenBacklog) != 0)
        return fail_errno("listen");
    listener_.open(poller_, std::move(socket), [this](uint32_t) { accept(); });
    return listener_.want(kReadable);
}

Status Server::run() {
    while (!stopping_)
        TRY(run_once());
    return {};
}

void Server::accept() {
    if (connections_.size() >= limits::kAgentConnectionsMax)
        return;
    UniqueFd socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
        // Others are of the connection that was to come, and no concern of the listener.
        accept_paused_ = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        return;
    }
    connections_.emplace_back(*this, std::move(socket));
    if (!connections_.back().start())
        connections_.pop_back();
}

void Server::on_signal() {
    signalfd_siginfo info = {};
    while (::read(signals_.fd(), &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo != SIGCHLD)
            stopping_ = true;
    }
    reap();
}

void Server::reap() {
    oom_.read();
    reap_more_ = true;
    for (int reaped = 0; reaped < kReapedAtOnce; ++reaped) {
        int status = 0;
        rusage usage = {};
        const pid_t pid = ::wait4(-1, &status, WNOHANG, &usage);
        if (pid <= 0) {
            reap_more_ = false;
            break;
        }
        const auto found = children_.find(pid);
        if (found == children_.end())
            continue;  // an orphan, or the command of a client that has gone
        Child& child = *found->second;
        remove_child(pid);
        child.on_exit(status, usage);
    }
    processes_.sweep_groups();
    sessions_.sweep_groups();
}

Status Server::may_start() const {
    if (children_.size() < limits::kAgentCommandsMax)
        return {};
    return fail(Code::resource_exhausted,
                "commands at once: at most " + std::to_string(limits::kAgentCommandsMax));
}

void Server::discard_output(UniqueFd pipe) {
    if (discarded_.size() >= limits::kAgentCommandsMax)
        discarded_.pop_front();
    Watch& watch = discarded_.emplace_back();
    watch.open(poller_, std::move(pipe), [this, &watch](uint32_t) {
        const ssize_t count = ::read(watch.fd(), scratch_.data(), scratch_.size());
        if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR))
            watch.close();
    });
    if (!watch.want(kReadable))
        watch.close();
}

Status Server::request_power_off() {
    TRY(guest_.allow_power_off());
    stopping_ = true;
    return {};
}

Status Server::run_once() {
    TRY(poller_.wait(turns_.empty() && !reap_more_ ? timers_.wait_ms() : 0));
    if (reap_more_)
        reap();
    timers_.expire();
    take_turns();
    sweep();
    return {};
}

// One for each that asked before: then the sockets are looked at again.
void Server::take_turns() {
    for (size_t left = turns_.size(); left > 0 && !turns_.empty(); --left) {
        Stream* stream = turns_.front();
        turns_.pop_front();
        stream->take_turn();
    }
}

// Destroys what has ended during the handlers, none of which runs now.
void Server::sweep() {
    for (Connection& connection : connections_)
        connection.sweep();
    forwards_.sweep();
    const size_t ended = std::erase_if(connections_, [](const auto& each) { return each.dead(); }) +
                         std::erase_if(discarded_, [](const Watch& watch) { return !watch; });
    if (ended > 0)
        accept_paused_ = false;
    const bool room = !accept_paused_ && connections_.size() < limits::kAgentConnectionsMax;
    if (listener_ && !listener_.want(room ? kReadable : 0))
        log_line("the listener cannot be watched any more");
}

}  // namespace spore
