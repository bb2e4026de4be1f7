#pragma once

#include <string_view>

namespace spore {

// One line, "spore-agent: <message>", on standard error, which in a guest is the console; where
// there is none, in the kernel's log.
void log_line(std::string_view message);

}  // namespace spore
