#pragma once

// What `exec`, `shell` and the sessions' lines have in common: a command in a sandbox on our
// streams.

#include "hypervisor/cli/commands.h"
#include "hypervisor/sandbox/agent_client.h"

namespace spore::cli {

struct ExecRun {
    std::string id;       // of the sandbox
    ExecRequest request;  // `pty`, if it is set, gets the size and TERM of our terminal
    bool with_stdin = false;
};

// Runs it to its end. The exit status becomes that of the command; what Spore itself fails with is
// reported, and kExitSpore.
void run_in_sandbox(Context& context, ExecRun run);

}  // namespace spore::cli
