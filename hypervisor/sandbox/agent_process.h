#pragma once

// Processes in a guest that outlive whoever started them (schema/agent.fbs, Processes).

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/sandbox/agent_client.h"

namespace spore {

class AgentConnection;

// Which one: by ID, or where that is 0 by name (the one that runs, else the last that ended).
struct ProcessName {
    uint32_t id = 0;
    std::string name;

    // "17" is an ID, all else a name.
    static ProcessName of(std::string_view text);
};

struct ProcessSpec {
    ExecRequest command;      // its timeout counts nothing; with `pty` it has a terminal and stdin
    std::string name;         // of no other that runs; may be empty
    bool with_stdin = false;  // stays open, for `input`
    uint64_t log_bytes_max = 0;  // of its output kept; 0: the agent's default
};

struct StartedProcess {
    uint32_t id = 0;  // 0: `failure` says why it could not be executed
    int pid = 0;
    ExecResult failure;
};

struct ProcessStatus {
    uint32_t id = 0;
    std::string name;
    int pid = 0;                    // in the guest; 0 once it has ended
    std::vector<std::string> argv;  // a long one's first words
    int64_t started_ns = 0;         // by the guest's clock, since 1970
    int64_t ended_ns = 0;
    std::optional<ExecResult> end;  // nothing: it runs
    uint64_t log_bytes = 0;         // kept
    uint64_t log_dropped = 0;       // no longer kept
};

// What a process has written at once.
struct ProcessOutput {
    uint64_t sequence = 0;  // 1, 2, …
    int fd = 0;             // 1 or 2
    int64_t time_ns = 0;    // since 1970, by the guest's clock
    std::span<const std::byte> bytes;
    uint64_t dropped = 0;  // bytes that were wanted before these and are no longer kept
};

struct ProcessLogRequest {
    uint64_t from = 0;    // the first sequence wanted; UINT64_MAX: what comes from now on
    bool follow = false;  // go on until the process ends
};

struct PortQuestion {
    uint16_t port = 0;
    bool http = false;     // else that it takes a connection is enough
    std::string path;      // http; empty: "/"
    int status_min = 200;  // http
    int status_max = 399;
    ProcessName process;                   // whose end is the end of the wait; none: nobody's
    std::chrono::milliseconds timeout{0};  // 0: none
};

struct LineQuestion {
    std::string pattern;
    bool expression = false;  // POSIX extended regular expression, else text
    uint64_t from = 0;        // the first sequence looked at
    std::chrono::milliseconds timeout{0};
};

struct LogLine {
    std::string line;  // without its newline
    size_t begin = 0;  // what was looked for, in it
    size_t length = 0;
    uint64_t sequence = 0;
};

// Any number of threads may use one at once; each call blocks until it is done, its deadline, or
// the end of the connection. Errors, beside each one's own: not_found (no such process), timeout,
// unavailable, host_unsupported (an agent that is too old).
class AgentProcesses {
  public:
    using Deadline = AgentClient::Deadline;

    explicit AgentProcesses(AgentConnection& connection) : connection_(connection) {}

    // Errors: already_exists (its name), resource_exhausted, those of AgentClient::exec.
    Result<StartedProcess> start(const ProcessSpec& spec, Deadline deadline);
    // The oldest first.
    Result<std::vector<ProcessStatus>> list(Deadline deadline);
    Result<ProcessStatus> show(const ProcessName& process, Deadline deadline);
    // In order, until what there is, or with `follow` the process, ends. An error of the sink ends
    // it and is returned.
    Status logs(const ProcessName& process, const ProcessLogRequest& request,
                const std::function<Status(const ProcessOutput&)>& sink, Deadline deadline);
    // Errors: timeout, after `timeout` (0: none) too.
    Result<ExecResult> wait(const ProcessName& process, std::chrono::milliseconds timeout,
                            Deadline deadline);
    // To its process group, or with `descendants` to all that came of it, wherever they are.
    // Errors: unavailable (it has ended), host_unsupported (descendants, in a guest without
    // cgroup2).
    Status signal(const ProcessName& process, int signal, bool descendants, Deadline deadline);
    // Forgets one that has ended, and its log. Errors: unavailable while it runs.
    Status remove(const ProcessName& process, Deadline deadline);
    // Feeds its stdin from a descriptor to its end. Without `close` stdin stays open then. False:
    // it has closed its stdin before. Errors: unavailable (closed, or another client feeds it).
    Result<bool> input(const ProcessName& process, int fd, bool close, Deadline deadline);
    // Until it is ready: nothing; or until the named process has ended: its end. Errors: timeout.
    Result<std::optional<ExecResult>> wait_port(const PortQuestion& question, Deadline deadline);
    // The first such line; or `end`, if the process ended without one.
    struct LineOrEnd {
        std::optional<LogLine> line;
        ExecResult end;
    };
    Result<LineOrEnd> wait_log(const ProcessName& process, const LineQuestion& question,
                               Deadline deadline);

  private:
    AgentConnection& connection_;
};

}  // namespace spore
