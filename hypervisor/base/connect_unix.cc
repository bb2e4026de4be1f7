#include "hypervisor/base/connect_unix.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdio>
#include <cstring>

namespace spore {

Result<UniqueFd> connect_unix(const std::filesystem::path& directory, const std::string& name,
                              int type) {
    UniqueFd handle(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!handle)
        return fail_errno(directory.string());
    // By way of the directory's descriptor: sun_path has 108 bytes, a home may be deep.
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    int length = std::snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s",
                               handle.get(), name.c_str());
    if (length < 0 || static_cast<size_t>(length) >= sizeof(address.sun_path))
        return fail(Code::invalid_argument, "socket name '" + name + "': too long");
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    if (!socket)
        return fail_errno("socket");
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
        return fail(Code::unavailable, (directory / name).string() + ": " + std::strerror(errno));
    return socket;
}

}  // namespace spore
