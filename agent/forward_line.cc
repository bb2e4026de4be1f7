#include "agent/forward_line.h"

#include <sys/un.h>

#include <charconv>

namespace spore {

namespace {

constexpr std::string_view kPort = "PORT ", kUnix = "UNIX ";
constexpr size_t kPathBytesMax = sizeof(sockaddr_un::sun_path) - 1;

Result<ForwardTarget> port_of(std::string_view number) {
    ForwardTarget target;
    const char* end = number.data() + number.size();
    const auto [last, error] = std::from_chars(number.data(), end, target.port);
    if (error != std::errc() || last != end || target.port == 0)
        return fail(Code::invalid_argument,
                    "port '" + std::string(number) + "': must be 1 to 65535");
    return target;
}

Result<ForwardTarget> socket_of(std::string_view path) {
    if (!path.starts_with('/') || path.size() > kPathBytesMax ||
        path.find('\0') != std::string_view::npos)
        return fail(Code::invalid_argument, "socket " + std::string(path) +
                                                ": must be an absolute path below " +
                                                std::to_string(kPathBytesMax + 1) + " bytes");
    return ForwardTarget{.port = 0, .path = std::string(path)};
}

}  // namespace

std::string ForwardTarget::words() const {
    return port != 0 ? "port " + std::to_string(port) : "socket " + path;
}

Result<ForwardTarget> parse_forward_line(std::string_view line) {
    if (line.starts_with(kPort))
        return port_of(line.substr(kPort.size()));
    if (line.starts_with(kUnix))
        return socket_of(line.substr(kUnix.size()));
    return fail(Code::invalid_argument, "line: must begin with PORT or UNIX");
}

}  // namespace spore
