#pragma once

/// @file
/// Sandboxes: clones of a template, each a VM of its own, and what runs in them.

#include <spore/call.h>
#include <spore/command.h>
#include <spore/context.h>
#include <spore/error.h>
#include <spore/files.h>
#include <spore/limits.h>
#include <spore/process.h>
#include <spore/session.h>
#include <spore/socket.h>
#include <spore/template.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// A sandbox that there was when this was made. It lives until it is destroyed, whatever becomes of
/// this object and the program. Cheap to copy. Thread-safe: any number of threads may call at once,
/// of one object or of copies; all of their requests share one connection, and none holds up
/// another.
class Sandbox {
  public:
    /// What to make.
    struct Spec {
        std::string template_name;  ///< Which template it is a clone of.
        std::string id = {};        ///< As Template::Spec::name; empty: a random one.
        /// Defaults of every command in it.
        std::map<std::string, std::string> environment = {};
        std::map<std::string, std::string> labels = {};  ///< To find it by.
        std::string owner = {};                          ///< Whose it is.
        Limits limits = {};                              ///< What it may use.
        /// What it may reach. Anything but none needs a template with a card
        /// (Template::Spec::network).
        NetworkAccess network = {};
        bool cold = false;                        ///< Take none of those that wait (`spore pool`).
        std::chrono::milliseconds limit{60'000};  ///< For all of it.
    };

    /// A TCP port that is listened on in a sandbox. UNTRUSTED: it is the guest that says so.
    struct Port {
        uint16_t port = 0;    ///< Its number.
        std::string address;  ///< "0.0.0.0", "::1".
        int pid = 0;          ///< Whose, in the guest; 0: of no process that can be seen.
        std::string process;  ///< That process's name.
        uint32_t uid = 0;     ///< Whose, in the guest.
    };

    const std::string& id() const;                             ///< Its name.
    const std::string& template_name() const;                  ///< What it is a clone of.
    const std::string& owner() const;                          ///< As in Spec.
    const std::map<std::string, std::string>& labels() const;  ///< As in Spec.
    std::chrono::system_clock::time_point created() const;     ///< When it was made.

    /// Whether its VM runs; one that has ended can be restarted or destroyed. Errors: not_found
    /// (destroyed, or restarted since).
    Result<bool> alive() const;
    /// Gives a sandbox whose VM has ended a new one: a fresh clone of its template under the same
    /// ID, with its environment (as at its creation), labels, owner, limits and network. Its files
    /// and all that ran in it are gone, and to other objects of it, this one too, it is
    /// destroyed. On any error it is as it was. `running_too`: one that runs as well; it is ended
    /// when the new one is there. Errors: not_found, unavailable (it runs, another works on it, or
    /// the call was cancelled), and those of Host::create_sandbox.
    Result<Sandbox> restart(bool running_too = false, const Call& call = {}) const;
    /// Ends it and removes all that belongs to it. Errors: not_found.
    Status destroy() const;

    /// What it uses. Takes two seconds at most, whatever its VM and its guest do: what they do not
    /// say by then is not known. Errors: not_found, unavailable (its VM has ended).
    Result<Usage> usage(const Call& call = {}) const;
    /// Changes what it may use, at once: all that has a value in `limits`, or nothing. Returns
    /// which limits this host does not hold. Errors: invalid_argument, resource_exhausted (more
    /// than the host or the template has), version_mismatch (an agent that is too old),
    /// unavailable, timeout.
    Result<std::vector<Usage::Missing>> update(const Limits& limits, const Call& call = {}) const;
    /// Changes what it may reach, for open connections too. An error in the rules changes nothing;
    /// after any other nothing can be reached. Errors: invalid_argument (also: its template has no
    /// card), unavailable (another changes it just now), the host's.
    Status update(const NetworkAccess& access, const Call& call = {}) const;

    /// Runs a command to its end, its output passed on as it comes. A program that cannot be
    /// executed is no error but Exit::Kind::not_started. Errors: not_found (cwd, user),
    /// invalid_argument, resource_exhausted, timeout, unavailable (the sandbox has ended, or the
    /// call was cancelled), and those of a sink.
    Result<Exit> run(const Command& command, const Streams& streams = {},
                     const Call& call = {}) const;
    /// The same, with at most `bytes_max` of each stream kept; what is above is counted and
    /// dropped, so that the command goes on.
    Result<Captured> capture(const Command& command, const Call& call = {},
                             size_t bytes_max = 16 << 20) const;

    /// Starts a process that runs on by itself. Errors: those of `run`; already_exists (its name);
    /// not_found, permission_denied (the program is not there, cannot be executed).
    Result<Process> start(const Process::Spec& spec, const Call& call = {}) const;
    /// All that were started and not removed, the oldest first.
    Result<std::vector<Process>> processes(const Call& call = {}) const;
    /// "17" is an ID, all else a name: of the one that runs, else of the last that ended.
    Result<Process> find_process(const std::string& id_or_name, const Call& call = {}) const;

    /// Makes a session, a shell that keeps its state. Errors: already_exists, invalid_argument,
    /// not_found (user, cwd, shell), resource_exhausted.
    Result<Session> create_session(const Session::Spec& spec, const Call& call = {}) const;
    /// All that were made and not removed.
    Result<std::vector<Session>> sessions(const Call& call = {}) const;
    /// Errors: not_found.
    Result<Session> find_session(const std::string& name, const Call& call = {}) const;

    /// Starts an interpreter that keeps its state, and returns when it takes code. Errors:
    /// already_exists, invalid_argument, not_found (no such interpreter in the sandbox),
    /// unavailable (it has ended at once).
    Result<CodeContext> create_context(const CodeContext::Spec& spec, const Call& call = {}) const;
    /// All that live.
    Result<std::vector<CodeContext>> contexts(const Call& call = {}) const;
    /// Errors: not_found.
    Result<CodeContext> find_context(const std::string& name, const Call& call = {}) const;

    /// Its files.
    Files files() const;

    /// The defaults of every command from here on; those that run keep theirs. `unset` after `set`.
    Status set_environment(const std::map<std::string, std::string>& set,
                           const std::vector<std::string>& unset = {}, const Call& call = {}) const;
    /// Whether its agent answers.
    Status ping(const Call& call = {}) const;

    /// Who listens on TCP in it, by port and address.
    Result<std::vector<Port>> ports(const Call& call = {}) const;
    /// A connection to a TCP port on its loopback, through the VM and without any network. Errors:
    /// unavailable (nobody listens there), timeout.
    Result<Socket> connect_port(uint16_t port, const Call& call = {}) const;
    /// The same to a UNIX stream socket, by its absolute path in the guest.
    Result<Socket> connect_socket(const std::string& path, const Call& call = {}) const;

    /// Of the library's own; see Host.
    struct Impl;
    /// Of the library's own; see Host.
    explicit Sandbox(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<Impl> impl_;
};

}  // namespace v1
}  // namespace spore
