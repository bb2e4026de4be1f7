#pragma once

/// @file
/// This host: its templates and its sandboxes. Where a program begins.

#include <spore/call.h>
#include <spore/error.h>
#include <spore/sandbox.h>
#include <spore/template.h>
#include <spore/version.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// All that Spore keeps on this host in one directory, its home. Opens no daemon: whatever runs is
/// a process of its own. Cheap to copy; thread-safe, and any number of programs may have the same
/// home.
class Host {
  public:
    /// One fact about this host, as `spore doctor` tells it.
    struct Finding {
        std::string name;    ///< "kvm", "io_uring".
        bool good = false;   ///< All is well.
        bool needed = true;  ///< Nothing works without it.
        std::string found;   ///< What was found.
        std::string remedy;  ///< What to do about it; empty if all is well.
    };

    /// The home that the environment names: $SPORE_HOME, or /var/lib/spore for root, else
    /// $XDG_DATA_HOME/spore. It is made if it is not there. Errors: the host's.
    static Result<Host> open();
    /// A home anywhere, by its absolute path.
    static Result<Host> open(const std::filesystem::path& home);

    /// Its directory.
    const std::filesystem::path& home() const;
    /// What this host can do, and what to fix. Takes up to a second.
    Result<std::vector<Finding>> examine() const;

    /// Boots an image, prepares it and snapshots it; the template appears whole or not at all.
    /// Takes seconds to minutes, bounded by the limits of `spec` and by the call. Errors:
    /// already_exists, not_found (image, kernel), invalid_argument, timeout (naming the step),
    /// unavailable (a command of `prepare` failed, or the call was cancelled), host_unsupported.
    Result<Template> create_template(const Template::Spec& spec, const OnProgress& progress = {},
                                     const Call& call = {}) const;
    /// Errors: not_found, corrupt, version_mismatch.
    Result<Template> find_template(const std::string& name) const;
    /// All of them, by name.
    Result<std::vector<Template>> list_templates() const;

    /// Clones a template. Nothing has run in it before it had its own entropy, clock and names. On
    /// any error nothing is left of it. The call counts beside Spec::limit. Errors: not_found
    /// (template), already_exists (ID), invalid_argument, timeout, resource_exhausted, corrupt,
    /// version_mismatch, unavailable (the call was cancelled).
    Result<Sandbox> create_sandbox(const Sandbox::Spec& spec, const Call& call = {}) const;
    /// Errors: not_found.
    Result<Sandbox> find_sandbox(const std::string& id) const;
    /// All that are alive or have ended and were not destroyed.
    Result<std::vector<Sandbox>> list_sandboxes() const;

    /// Of the library's own.
    struct Impl;
    /// Of the library's own.
    explicit Host(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<const Impl> impl_;
};

}  // namespace v1
}  // namespace spore
