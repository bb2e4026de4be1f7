#include "agent/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

bool in_kernels_log = false;

// An error's, because a template's kernel command line (loglevel=4) shows nothing less on the
// console.
constexpr const char* kKernelLevel = "<3>";
constexpr size_t kKernelLineMax = 900;  // a longer one is refused (LOG_LINE_MAX)

}  // namespace

void log_to_kernel() {
    in_kernels_log = true;
}

void log_line(std::string_view message) {
    std::string line = "spore-agent: ";
    line.append(message);
    // A log that cannot be written has nobody left to tell.
    if (!in_kernels_log) {
        line += '\n';
        (void)!::write(STDERR_FILENO, line.data(), line.size());
        return;
    }
    // Opened for each line: the kernel takes ten in five seconds from one descriptor.
    UniqueFd kmsg(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
    line = kKernelLevel + line.substr(0, kKernelLineMax);
    if (kmsg)
        (void)!::write(kmsg.get(), line.data(), line.size());
}

}  // namespace spore
