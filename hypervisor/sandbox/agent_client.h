#pragma once

// The agent inside a guest, from the host (schema/agent.fbs).

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// What the agent said of itself when the connection began.
struct AgentInfo {
    uint16_t protocol = 0;
    std::string version;
    std::string boot_id;
    bool sealed = false;  // runs nothing before `identify`
};

// What a snapshot keeps of a connection to the agent that is carried through it: enough to go on
// where its first host end left off, with no word between.
struct AgentCarried {
    uint16_t protocol = 0;
    std::string version;       // of the agent
    uint32_t last_stream = 0;  // the highest stream ID used so far
};

// IPv4 as text; what is empty stays as it is in the guest.
struct AgentNetwork {
    std::vector<uint8_t> mac;  // 6 bytes or none
    std::string address;
    uint8_t prefix_bits = 24;
    std::string gateway;
    std::vector<std::string> dns;
};

// Of all commands in the guest together; 0: the guest's own bound, which for memory is none.
struct AgentLimits {
    uint32_t processes = 0;
    uint64_t memory_bytes = 0;
};

// UNTRUSTED: what a guest says of itself. A bound of 0: none.
struct AgentUsage {
    uint32_t processes = 0, processes_max = 0;
    uint64_t memory_bytes = 0, memory_bytes_max = 0;  // counted only where there is a bound
    uint64_t root_bytes = 0, root_bytes_used = 0;     // of its root file system
    // With a bound of 0: not known, the agent is of an earlier Spore.
    uint64_t open_files = 0, open_files_max = 0;  // of the whole guest
    uint32_t kept_processes = 0, kept_processes_max = 0;
    // Kept of those processes' output, reserved for it, and what can be.
    uint64_t output_bytes = 0, output_bytes_reserved = 0, output_bytes_max = 0;
};

// What makes a clone one of its own.
struct AgentIdentity {
    std::string hostname;            // one label
    std::string machine_id;          // 32 lower-case hexadecimal digits
    std::vector<std::byte> entropy;  // kEntropyBytesMin to kEntropyBytesMax; empty: from this host
    uint64_t wall_clock_ns = 0;      // since 1970; 0: this host's, read when it is sent
    std::optional<AgentNetwork> network;
    // Defaults of every command.
    std::vector<std::pair<std::string, std::string>> environment;
    // Set right behind the identity, and confirmed with it.
    std::optional<AgentLimits> limits;
};

// A terminal's size, in characters.
struct TerminalSize {
    uint16_t rows = 24;
    uint16_t columns = 80;
};

struct ExecRequest {
    std::vector<std::string> argv;
    std::vector<std::pair<std::string, std::string>> environment;
    std::vector<std::string> unset;  // names, after `environment`
    bool clear_environment = false;  // start without the sandbox's defaults
    std::string cwd;                 // empty: the user's home
    std::string user;                // "name", "UID", "name:group"; empty: root
    // After it the command's process group is killed. 0: no limit.
    std::chrono::milliseconds timeout{0};
    // Its stdin, stdout and stderr are a terminal of this size; its output comes as stdout alone.
    std::optional<TerminalSize> pty;
    // A line for this session's shell: `argv` is that line alone, the environment and the cwd are
    // for it alone; it takes no user, no unset, no clear_environment and no pty.
    std::string session;
};

// Orders to a command that another thread waits for. All calls are thread-safe.
class ExecControl {
  public:
    static Result<std::unique_ptr<ExecControl>> create();
    // Sends a signal (1 to 63) to the command's process group.
    void signal(int number);
    // Kills it; `exec` returns what became of it.
    void cancel();
    // Its terminal has another size (ExecRequest.pty). May be called by a signal's handler.
    void resize(TerminalSize size);

  private:
    friend class ExecStream;
    explicit ExecControl(UniqueFd event) : event_(std::move(event)) {}
    UniqueFd event_;
    std::atomic<uint64_t> signals_{0};  // bit n: signal n
    std::atomic<uint64_t> size_{0};     // rows << 32 | columns << 16 | 1; 0: no other
};

// What a command is fed with and where its output goes. The callbacks run in the calling thread; as
// long as one does not return, the command's output waits, at last in the command. An error from
// one kills the command and is what `exec` returns.
struct ExecStreams {
    using Sink = std::function<Status(std::span<const std::byte>)>;

    Sink on_stdout;  // none: dropped
    Sink on_stderr;
    std::function<void(int pid)> on_started;
    int stdin_fd = -1;  // read to its end, not closed; -1: /dev/null
    ExecControl* control = nullptr;
};

struct ExecResult {
    enum class End { exited, signaled, timed_out, not_started };

    End end = End::exited;
    // exited: its own; signaled: 128 + signal; timed_out: 124; not_started: 126 or 127.
    int exit_status = 0;
    int signal = 0;       // that ended it; 0 if it exited
    std::string message;  // not_started: why
    uint64_t cpu_us = 0;  // of it and the children that it waited for
    uint64_t peak_memory_bytes = 0;
    bool oom_killed = false;     // the guest's kernel killed a process of it for want of memory
    bool session_ended = false;  // the line ended its session's shell; the next one starts another
};

// One connection to a guest's agent, one request at a time: not thread-safe, but any number of
// clients may be connected. Every call blocks until it is done or its deadline, and what fails with
// timeout, unavailable or corrupt ends the connection (the agent then kills what it was running for
// it): `broken` says so, and every later call fails with unavailable.
class AgentClient {
  public:
    using Deadline = std::chrono::steady_clock::time_point;

    // Through the socket of a spore-vmm's vsock device to `port` in the guest. Errors: unavailable
    // (nobody listens), timeout, version_mismatch.
    static Result<AgentClient> connect(const std::filesystem::path& socket, uint32_t port,
                                       Deadline deadline);
    // Over a stream socket that leads to the agent already.
    static Result<AgentClient> over(UniqueFd socket, Deadline deadline);
    // The host end of a connection that was carried through a snapshot to `port` of the guest,
    // sealed as it is. Waits for nothing: that the VMM refuses it (somebody has attached before, or
    // nothing was carried) is the error of the first request, unavailable.
    static Result<AgentClient> attach(const std::filesystem::path& socket, uint32_t port,
                                      const AgentCarried& carried);
    // The same over a socket that is connected to the VMM's, or will be accepted from it.
    static Result<AgentClient> attach(UniqueFd socket, uint32_t port, const AgentCarried& carried);

    AgentClient(AgentClient&&) noexcept;
    AgentClient& operator=(AgentClient&&) noexcept;
    ~AgentClient();

    const AgentInfo& info() const;
    bool broken() const;
    // Whether the agent knows limits: one of an earlier Spore does not.
    bool takes_limits() const;

    // After it the guest has its own entropy, clock and names, and runs commands. Errors: those of
    // the step in the guest that failed; it stays sealed then.
    Status identify(const AgentIdentity& identity, Deadline deadline);
    // The two halves of it, for a guest that does not run yet: the message is in the socket when
    // the first returns; the second waits for the confirmation.
    Status send_identity(const AgentIdentity& identity);
    Status confirm_identity(Deadline deadline);
    // Runs a command. Errors: not_found (cwd, user), invalid_argument, unavailable (sealed, or the
    // connection ended), resource_exhausted, timeout (the deadline: the command is killed), a
    // sink's. A program that cannot be executed is no error but ExecResult::not_started.
    Result<ExecResult> exec(const ExecRequest& request, const ExecStreams& streams,
                            Deadline deadline);
    // Writes the guest's disks back and seals it: ready for the machine to be paused and saved.
    Status prepare_snapshot(Deadline deadline);
    // After prepare_snapshot: what this connection is to those who attach to it in the restored
    // machines. It must not be used any more.
    AgentCarried carry() const;
    // The host's port of this connection; 0 if it was not made by `connect`.
    uint32_t host_port() const;
    // Lets the root file system fill its disk.
    // `disk_bytes`: waits until the guest knows that its disk has so many (0: as it is). Errors
    // also: version_mismatch for an agent that knows nothing of that.
    Status grow_root(Deadline deadline, uint64_t disk_bytes = 0);
    // Errors also: version_mismatch (the agent is older than limits), host_unsupported (the guest's
    // kernel cannot).
    Status set_limits(const AgentLimits& limits, Deadline deadline);
    Result<AgentUsage> usage(Deadline deadline);
    // The guest begins to switch itself off.
    Status power_off(Deadline deadline);
    Status ping(Deadline deadline);

  private:
    class Wire;
    friend class AgentConnection;
    friend class WireChannel;
    explicit AgentClient(std::unique_ptr<Wire> wire);
    std::unique_ptr<Wire> wire_;
};

}  // namespace spore
