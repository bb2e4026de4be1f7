#pragma once

#include <string_view>

namespace spore {

// One line, "spore-agent: <message>", on standard error; after log_to_kernel() in the kernel's log,
// from where it comes to the console.
void log_line(std::string_view message);

// For PID 1 of a guest, which keeps no console open (init.cc).
void log_to_kernel();

}  // namespace spore
