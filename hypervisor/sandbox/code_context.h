#pragma once

// Interpreters in a sandbox that keep their state from one run to the next.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/sandbox/agent_client.h"

namespace spore {

class AgentConnection;

enum class ContextLanguage { python, javascript };

// "python", "javascript"
std::string_view language_name(ContextLanguage language);
// Errors: invalid_argument.
Result<ContextLanguage> language_of(std::string_view name);

struct ContextSpec {
    std::string name;  // of no other context of the sandbox
    ContextLanguage language = ContextLanguage::python;
    std::string program;  // of the interpreter; empty: python3 or node, by PATH
    std::string cwd;      // empty: the user's home
    std::string user;     // empty: root
    std::vector<std::pair<std::string, std::string>> environment;
    std::vector<std::string> unset;  // names, after `environment`
};

struct ContextInfo {
    std::string name;
    ContextLanguage language = ContextLanguage::python;
    uint32_t process = 0;  // the ID of its process
};

// The forms of one value by MIME type. Those of "text/…", "application/json" and "image/svg+xml"
// are text; all others are base64, as the guest has sent it.
using RichData = std::map<std::string, std::string>;

struct ContextError {
    std::string name;  // "ZeroDivisionError"
    std::string value;
    std::string traceback;
};

struct RunResult {
    // lost: the interpreter itself is gone, and the context with it.
    enum class End { ok, error, interrupted, timed_out, lost };

    End end = End::ok;
    std::optional<RichData> result;  // of its last expression, if it has a value
    std::vector<RichData> displays;  // shown by the code, in order: figures, display()
    std::optional<ContextError> error;
    bool truncated = false;     // the code wrote or showed more than is handed on
    bool context_lost = false;  // timed_out: it did not take the interrupt, and was killed
};

// What a run says before its end, as it comes. What the code writes is bytes.
struct RunStreams {
    std::function<Status(std::string_view bytes)> on_stdout;  // none: dropped
    std::function<Status(std::string_view bytes)> on_stderr;
    std::function<Status(const RichData& data)> on_display;
};

// The contexts of one sandbox, on a connection to its agent. Each is a process in the sandbox
// (AgentProcesses) that outlives whoever made it, so they are found again by their names. Any
// number of threads may use one object; one context does one run at a time.
class CodeContexts {
  public:
    using Deadline = AgentClient::Deadline;

    explicit CodeContexts(AgentConnection& connection) : connection_(connection) {}

    // Returns when it takes code. Errors: already_exists, invalid_argument (its name), not_found
    // (no such interpreter in the sandbox), those of AgentProcesses::start.
    Status create(const ContextSpec& spec, Deadline deadline);
    Result<std::vector<ContextInfo>> list(Deadline deadline);
    // Ends it, and all that its code has started. Errors: not_found.
    Status remove(const std::string& name, Deadline deadline);

    // Runs code, and waits for its end. After `timeout` (0: none) it is interrupted, and if it does
    // not end then the context is killed. Errors: not_found; unavailable (another run is under
    // way); invalid_argument (more than kContextCodeBytesMax, no UTF-8); corrupt (what it answers);
    // a stream's. Behind every error of a run that had begun the code is interrupted.
    Result<RunResult> run(const std::string& name, const std::string& code,
                          const RunStreams& streams, std::chrono::milliseconds timeout,
                          Deadline deadline);
    // Stops what it runs now, which ends as interrupted. Errors: not_found.
    Status interrupt(const std::string& name, Deadline deadline);

  private:
    Result<ContextInfo> find(const std::string& name, Deadline deadline);

    AgentConnection& connection_;
};

}  // namespace spore
