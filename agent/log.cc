#include "agent/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "hypervisor/base/unique_fd.h"

namespace spore {

void log_line(std::string_view message) {
    std::string line = "spore-agent: ";
    line.append(message).append("\n");
    if (::write(STDERR_FILENO, line.data(), line.size()) > 0)
        return;
    UniqueFd kmsg(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
    // A log that cannot be written has nobody left to tell.
    if (kmsg)
        (void)!::write(kmsg.get(), line.data(), line.size());
}

}  // namespace spore
