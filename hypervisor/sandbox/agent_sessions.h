#pragma once

// Sessions of a sandbox, from the host (schema/agent.fbs): shells that keep their state. Their
// lines are commands with ExecRequest.session.

#include <string>
#include <utility>
#include <vector>

#include "hypervisor/sandbox/agent_connection.h"

namespace spore {

struct SessionSpec {
    std::string name;  // letters, digits, '-', '_' and '.', at most kNameBytesMax
    std::vector<std::pair<std::string, std::string>> environment;  // above the sandbox's
    std::vector<std::string> unset;
    std::string cwd;    // empty: the user's home
    std::string user;   // as ExecRequest.user
    std::string shell;  // a program that takes -s and POSIX's language; empty: /bin/sh
};

struct SessionInfo {
    std::string name;
    std::string cwd;
    std::string user;
    std::string shell;
    int pid = 0;  // of its shell; 0: none runs now
    bool busy = false;
};

// Errors: already_exists, invalid_argument, not_found (user, cwd, shell), resource_exhausted,
// host_unsupported (an older agent), timeout, unavailable.
Status create_session(AgentConnection& agent, const SessionSpec& spec,
                      AgentConnection::Deadline deadline);
Result<std::vector<SessionInfo>> list_sessions(AgentConnection& agent,
                                               AgentConnection::Deadline deadline);
// Its shell and all that came of it are killed. Errors: not_found.
Status delete_session(AgentConnection& agent, const std::string& name,
                      AgentConnection::Deadline deadline);

}  // namespace spore
