#pragma once

// The terminal that `spore` itself is used on, while one in a sandbox is shown on it.

#include <optional>

#include "hypervisor/base/result.h"
#include "hypervisor/sandbox/agent_client.h"

namespace spore::cli {

// Of the first of our standard streams that is a terminal.
std::optional<TerminalSize> terminal_size();

// Standard input in raw mode: every key goes to the sandbox, Ctrl-C too. At most one at a time. The
// mode of before is back whatever ends us (but SIGKILL), and while we are stopped from outside.
class RawTerminal {
  public:
    static Result<std::unique_ptr<RawTerminal>> enter();
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
    ~RawTerminal();

  private:
    RawTerminal() = default;
};

// Tells a command in a sandbox, as long as this lives, when our terminal gets another size. At most
// one at a time.
class ResizeForwarding {
  public:
    explicit ResizeForwarding(ExecControl& control);
    ResizeForwarding(const ResizeForwarding&) = delete;
    ResizeForwarding& operator=(const ResizeForwarding&) = delete;
    ~ResizeForwarding();
};

}  // namespace spore::cli
