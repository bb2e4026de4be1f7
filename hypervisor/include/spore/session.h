#pragma once

/// @file
/// Sessions: shells in a sandbox that keep their state between lines.

#include <spore/call.h>
#include <spore/command.h>
#include <spore/error.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// A shell in a sandbox, made by Sandbox::create_session: `cd`, `export` and functions of one line
/// are there for the next. Sessions share files, processes and localhost, and nothing else. A line
/// that is killed or that ends the shell ends no session: the next line starts a shell with the
/// environment of Spec and the directory of the last one. Cheap to copy; thread-safe, and one line
/// runs at a time: a second waits. Errors of every call beside its own: not_found (it was removed),
/// timeout, unavailable, host_unsupported (an agent that is too old).
class Session {
  public:
    /// What to make.
    struct Spec {
        std::string name;  ///< 1 to 63 letters, digits, '-', '_' and '.'.
        std::map<std::string, std::string> environment = {};  ///< Above the sandbox's defaults.
        std::vector<std::string> unset = {};                  ///< Names removed, after that.
        std::string cwd = {};    ///< Where it begins; empty: the user's home.
        std::string user = {};   ///< As Command::user.
        std::string shell = {};  ///< Takes -s and POSIX's language; empty: /bin/sh.
    };

    /// What is known of it.
    struct Info {
        std::string name;   ///< As in Spec.
        std::string cwd;    ///< Where it is now.
        std::string user;   ///< As in Spec.
        std::string shell;  ///< The program.
        int pid = 0;        ///< Of its shell in the guest; 0: none runs now.
        bool busy = false;  ///< A line runs.
    };

    const std::string& name() const;  ///< As Spec::name.

    /// What is known of it now.
    Result<Info> info(const Call& call = {}) const;
    /// Runs one line to its end, its output passed on as it comes. A call that ends before ends the
    /// line, and with it the shell. Errors also: those of a sink.
    Result<Exit> run(const std::string& line, const Streams& streams = {},
                     const Call& call = {}) const;
    /// The same of Command::argv, which is that line alone, with the environment and cwd of the
    /// command for it alone, its input and its timeout. Errors also: invalid_argument (anything
    /// else that a command may have).
    Result<Exit> run(const Command& line, const Streams& streams = {}, const Call& call = {}) const;
    /// The first, with at most `bytes_max` of each stream kept.
    Result<Captured> capture(const std::string& line, const Call& call = {},
                             size_t bytes_max = 16 << 20) const;
    /// Ends it: its shell and all that came of it are killed.
    Status remove(const Call& call = {}) const;

    /// Of the library's own; see Sandbox::create_session.
    struct Impl;
    /// Of the library's own; see Sandbox::create_session.
    explicit Session(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<const Impl> impl_;
};

}  // namespace v1
}  // namespace spore
