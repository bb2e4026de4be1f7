#pragma once

// A guest's TCP ports, from the host: who listens, and connections to them through vsock, so that
// the guest needs no network (schema/agent.fbs, Guest ports).

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hypervisor/base/unique_fd.h"
#include "hypervisor/sandbox/agent_connection.h"

namespace spore {

struct ListeningPort {
    uint16_t port = 0;
    std::string address;  // "0.0.0.0", "::1"
    int pid = 0;          // in the guest; 0: of no process that can be seen
    std::string process;  // its name
    uint32_t uid = 0;
};

// By port, then by address. UNTRUSTED: what they say is the guest's. Errors: those of a stream
// (agent_connection.h); corrupt: more than kListenersMax.
Result<std::vector<ListeningPort>> list_ports(AgentConnection& agent,
                                              AgentClient::Deadline deadline);

// A stream socket that is the connection to a TCP port on the guest's loopback, IPv4 or else IPv6:
// bytes pass both ways, and each way's end for itself. `run_directory`: the sandbox's. Errors:
// unavailable (nobody listens there, or the guest has gone), timeout, invalid_argument (port 0).
Result<UniqueFd> connect_port(const std::filesystem::path& run_directory, uint16_t port,
                              AgentClient::Deadline deadline);
// The same to a UNIX stream socket, whose path in the guest is absolute and below 108 bytes.
Result<UniqueFd> connect_guest_socket(const std::filesystem::path& run_directory,
                                      const std::string& path, AgentClient::Deadline deadline);

// Over a stream that leads to the agent's forward port: says `line`, without its newline, and waits
// for OK.
Status request_forward(int socket, const std::string& line, AgentClient::Deadline deadline);

}  // namespace spore
