#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

// What a connection to the guest's own ports is to lead to: a TCP port, or a UNIX socket.
struct ForwardTarget {
    uint16_t port = 0;  // 0: `path`
    std::string path;   // absolute, fits sockaddr_un with its terminating zero

    // For messages: "port 8080".
    std::string words() const;
};

// UNTRUSTED BYTES: the line that such a connection begins with, without its newline: "PORT 8080" or
// "UNIX /run/x". Fuzz target: tests/fuzz/fuzz_forward_line.cc. Errors: invalid_argument.
Result<ForwardTarget> parse_forward_line(std::string_view line);

}  // namespace spore
