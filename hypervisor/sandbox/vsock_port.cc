#include "hypervisor/sandbox/vsock_port.h"

#include <poll.h>
#include <sys/socket.h>

#include <charconv>

#include "hypervisor/base/limits.h"
#include "hypervisor/sandbox/agent_wire.h"
#include "hypervisor/sandbox/vmm_client.h"

namespace spore {

Result<std::string> receive_line(int socket, size_t bytes_max,
                                 std::chrono::steady_clock::time_point deadline) {
    std::string line;
    while (line.size() <= bytes_max) {
        const auto timeout_ms = poll_ms_until(deadline);
        if (!timeout_ms)
            return fail(Code::timeout, "no connection within the time allowed");
        pollfd waiting = {socket, POLLIN, 0};
        if (::poll(&waiting, 1, *timeout_ms) <= 0)
            continue;
        // Byte by byte, not to take what follows the line.
        char next = 0;
        if (::recv(socket, &next, 1, 0) != 1)
            return fail(Code::unavailable, "the connection was ended before an answer");
        if (next == '\n')
            return line;
        line += next;
    }
    return fail(Code::corrupt, "an answer of more than " + std::to_string(bytes_max) + " bytes");
}

Result<VsockStream> connect_vsock(const std::filesystem::path& socket, uint32_t port,
                                  std::chrono::steady_clock::time_point deadline) {
    VsockStream stream;
    stream.socket =
        TRY(connect_unix(socket.parent_path(), socket.filename().string(), SOCK_STREAM));
    const std::string request = "CONNECT " + std::to_string(port) + "\n";
    if (::send(stream.socket.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size()))
        return fail(Code::unavailable, "spore-vmm does not take a connection");
    const auto line = receive_line(stream.socket.get(), limits::kVsockLineBytesMax, deadline);
    if (!line && line.error().code == Code::unavailable)
        return fail(Code::unavailable,
                    "nobody listens on port " + std::to_string(port) + " of the guest");
    if (!line && line.error().code == Code::timeout)
        return std::unexpected(line.error());
    constexpr std::string_view kOk = "OK ";
    const std::string text = line.value_or("");
    const char* end = text.data() + text.size();
    if (!text.starts_with(kOk) ||
        std::from_chars(text.data() + kOk.size(), end, stream.host_port).ptr != end)
        return fail(Code::unavailable, "this is no spore-vmm: wrong answer to CONNECT");
    return stream;
}

}  // namespace spore
