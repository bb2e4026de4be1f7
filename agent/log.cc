#include "agent/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

LogTarget log_target = LogTarget::standard_error;

void write_line(int fd, const std::string& line) {
    // A log that cannot be written has nobody left to tell.
    [[maybe_unused]] const ssize_t written = ::write(fd, line.data(), line.size());
}

void log(const char* kernel_level, std::string_view message) {
    std::string line = "spore-agent: ";
    line.append(message).append("\n");
    if (log_target == LogTarget::kernel) {
        if (UniqueFd kmsg(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC)); kmsg) {
            write_line(kmsg.get(), kernel_level + line);
            return;
        }
    }
    write_line(STDERR_FILENO, line);
}

}  // namespace

void set_log_target(LogTarget target) {
    log_target = target;
}

void log_notice(std::string_view message) {
    log("<5>", message);
}

void log_error(std::string_view message) {
    log("<3>", message);
}

}  // namespace spore
