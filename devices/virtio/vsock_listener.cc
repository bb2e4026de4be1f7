#include "devices/virtio/vsock_listener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <utility>

namespace spore {

namespace {

static_assert(sizeof(sockaddr_un::sun_path) == limits::kUnixPathBytesMax);

Result<sockaddr_un> address_of(const std::string& path) {
    if (path.empty())
        return fail(Code::invalid_argument, "vsock path: it is empty");
    if (path.size() >= limits::kUnixPathBytesMax)
        return fail(
            Code::invalid_argument,
            "vsock path '" + path + "': " + std::to_string(path.size()) + " bytes, at most 107");
    if (path.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, "vsock path: it has a zero byte");
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

Result<UniqueFd> stream_socket() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd)
        return fail_errno("socket");
    return fd;
}

// Never waits: a Unix socket connects at once, or its backlog is full (EAGAIN).
int connect_socket(int fd, const sockaddr_un& address) {
    return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// Removes a socket that its listener left behind; anything else at `path` is somebody's.
Status clear(const std::string& path, const sockaddr_un& address) {
    struct stat status = {};
    if (::lstat(path.c_str(), &status) != 0)
        return errno == ENOENT ? Status{} : fail_errno("vsock path '" + path + "'");
    if (!S_ISSOCK(status.st_mode))
        return fail(Code::already_exists, "vsock path '" + path + "': exists and is no socket");
    UniqueFd probe = TRY(stream_socket());
    if (connect_socket(probe.get(), address) == 0 || errno != ECONNREFUSED)
        return fail(Code::already_exists, "vsock path '" + path + "': a socket in use");
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
        return fail_errno("removing the stale vsock socket '" + path + "'");
    return {};
}

}  // namespace

Result<UniqueFd> bind_vsock_socket(const std::string& path) {
    sockaddr_un address = TRY(address_of(path));
    TRY(clear(path, address));
    UniqueFd fd = TRY(stream_socket());
    // The file takes the socket's mode: who may connect is whose machine it is.
    if (::fchmod(fd.get(), 0600) != 0)
        return fail_errno("vsock path '" + path + "': mode");
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        if (errno == EADDRINUSE)
            return fail(Code::already_exists, "vsock path '" + path + "': exists");
        return fail_errno("vsock path '" + path + "'");
    }
    return fd;
}

Result<VsockListener> VsockListener::create(const std::string& path, EventLoop& loop) {
    UniqueFd fd = TRY(bind_vsock_socket(path));
    struct stat status = {};
    if (::lstat(path.c_str(), &status) != 0)
        return fail_errno("vsock path '" + path + "'");
    auto remove_file = [&] { ::unlink(path.c_str()); };
    if (::listen(fd.get(), SOMAXCONN) != 0) {
        auto error = fail_errno("listening at '" + path + "'");
        remove_file();
        return error;
    }
    auto file = loop.add_file(std::move(fd));
    if (!file) {
        remove_file();
        return std::unexpected(std::move(file).error());
    }
    return VsockListener(path, std::move(*file), status.st_dev, status.st_ino);
}

Result<VsockListener> VsockListener::adopt(UniqueFd socket, EventLoop& loop) {
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    int type = 0;
    socklen_t type_size = sizeof(type);
    if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
        ::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &type_size) != 0)
        return fail_errno("vsock: the descriptor to listen on");
    if (address.ss_family != AF_UNIX || type != SOCK_STREAM || size <= sizeof(sa_family_t))
        return fail(Code::invalid_argument,
                    "vsock: the descriptor to listen on is no bound Unix stream socket");
    if (::fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0)
        return fail_errno("vsock: O_NONBLOCK");
    if (::listen(socket.get(), SOMAXCONN) != 0)  // again does no harm
        return fail_errno("vsock: listening on the descriptor given");
    return VsockListener("", TRY(loop.add_file(std::move(socket))), 0, 0);
}

VsockListener::VsockListener(VsockListener&& other) noexcept
    : path_(std::exchange(other.path_, {})),
      file_(std::move(other.file_)),
      device_(other.device_),
      inode_(other.inode_) {}

VsockListener::~VsockListener() {
    struct stat status = {};
    if (!path_.empty() && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
        status.st_ino == inode_)
        ::unlink(path_.c_str());
}

Result<UniqueFd> VsockListener::accept() const {
    while (true) {
        UniqueFd fd(::accept4(file_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (fd || errno == EAGAIN)
            return fd;
        if (errno != EINTR && errno != ECONNABORTED)
            return fail_errno("accept at '" + path_ + "'");
    }
}

Result<UniqueFd> VsockListener::connect_to(uint32_t port) const {
    if (path_.empty())
        return fail(Code::unavailable,
                    "vsock: no path for host programs to listen at, port " + std::to_string(port));
    std::string path = path_ + "_" + std::to_string(port);
    sockaddr_un address = TRY(address_of(path));
    UniqueFd fd = TRY(stream_socket());
    if (connect_socket(fd.get(), address) != 0)
        return fail_errno("connecting to '" + path + "'");
    return fd;
}

}  // namespace spore
