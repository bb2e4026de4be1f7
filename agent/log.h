#pragma once

#include <string_view>

namespace spore {

// Where the agent's own lines go.
enum class LogTarget {
    standard_error,
    kernel,  // /dev/kmsg, and so to the console; standard error where that cannot be opened
};

void set_log_target(LogTarget target);

// One line, "spore-agent: <message>", at the kernel's level "notice".
void log_notice(std::string_view message);
// The same for what went wrong, at the kernel's level "error".
void log_error(std::string_view message);

}  // namespace spore
