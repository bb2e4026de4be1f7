// The line of a connection to a guest's ports, any bytes: a port, a path that fits, or refused.
#include <sys/un.h>

#include <cstdlib>

#include "agent/forward_line.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    const std::string_view line(reinterpret_cast<const char*>(data), size);
    const auto target = parse_forward_line(line);
    if (!target)
        return target.error().code == Code::invalid_argument ? 0 : (std::abort(), 1);
    const bool port = target->port != 0;
    const bool path = target->path.starts_with('/') &&
                      target->path.size() < sizeof(sockaddr_un::sun_path) &&
                      target->path.find('\0') == std::string::npos;
    if (port == path || !line.starts_with(port ? "PORT " : "UNIX ") || target->words().empty())
        std::abort();
    return 0;
}
