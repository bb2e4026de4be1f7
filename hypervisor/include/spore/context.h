#pragma once

/// @file
/// Code contexts: interpreters in a sandbox that keep their state from one run to the next.

#include <spore/call.h>
#include <spore/error.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace spore {
inline namespace v1 {

/// The forms of one value by MIME type: "text/plain", "application/json", "image/png". Those of
/// "text/…", "application/json" and "image/svg+xml" are text; all others are base64. UNTRUSTED:
/// it is the guest that says so.
using RichValue = std::map<std::string, std::string>;

/// Where what a run says before its end goes, as it comes, in the thread that called. An error
/// that one returns is what the call returns, and interrupts the run.
struct CodeStreams {
    std::function<Status(std::string_view)> out = {};  ///< Standard output; none: dropped.
    std::function<Status(std::string_view)> err = {};  ///< Standard error; none: dropped.
    /// Each of CodeContext::Outcome::displays.
    std::function<Status(const RichValue&)> display = {};
};

/// An interpreter, made by Sandbox::create_context: what one run has defined is there for the next.
/// It outlives the program that made it. Cheap to copy; thread-safe, and it does one run at a time.
/// Errors of every call beside its own: not_found (it was removed, or has ended), timeout,
/// unavailable, host_unsupported (an agent that is too old).
class CodeContext {
  public:
    /// What it speaks.
    enum class Language {
        python,      ///< CPython 3.
        javascript,  ///< Node.js.
    };

    /// What to make.
    struct Spec {
        std::string name;                      ///< 1 to 40 letters, digits, '-' and '_'.
        Language language = Language::python;  ///< What it speaks.
        std::string program = {};  ///< The interpreter; empty: python3 or node, by PATH.
        std::string cwd = {};      ///< Where it begins; empty: the user's home.
        std::string user = {};     ///< As Command::user.
        std::map<std::string, std::string> environment = {};  ///< Above the sandbox's defaults.
        std::vector<std::string> unset = {};                  ///< Names removed, after that.
    };

    /// What code has thrown.
    struct Failure {
        std::string name;       ///< "ZeroDivisionError".
        std::string value;      ///< What it says.
        std::string traceback;  ///< Where it was, as the interpreter tells it.
    };

    /// What became of a run.
    struct Outcome {
        /// How it ended.
        enum class End {
            ok,           ///< By itself.
            error,        ///< By what it has thrown; see `error`.
            interrupted,  ///< By `interrupt`.
            timed_out,    ///< Its time was over.
            lost,         ///< The interpreter has ended, and the context with it.
        };
        End end = End::ok;                     ///< How it ended.
        std::optional<RichValue> value = {};   ///< Of its last expression, if that has one.
        std::vector<RichValue> displays = {};  ///< What it has shown, in order: figures, display().
        std::optional<Failure> error = {};     ///< What it has thrown.
        bool truncated = false;  ///< It wrote or showed more than a run may; the rest is dropped.
        bool context_lost = false;  ///< timed_out: it did not take the interrupt, and was killed.
    };

    const std::string& name() const;  ///< As Spec::name.
    Language language() const;        ///< As Spec::language.

    /// Runs code, at most 1 MiB of UTF-8, to its end. After `timeout` (0: none) it is interrupted,
    /// and if it does not end then the context is killed. A call that ends before interrupts it.
    /// What the code throws is no error but Outcome::End::error. Errors also: unavailable (another
    /// run is under way), invalid_argument, corrupt, and those of a stream.
    Result<Outcome> run(const std::string& code, const CodeStreams& streams = {},
                        std::chrono::milliseconds timeout = {}, const Call& call = {}) const;
    /// Stops what it runs now, which ends as interrupted. Nothing that runs: no effect.
    Status interrupt(const Call& call = {}) const;
    /// Ends it, and all that its code has started.
    Status remove(const Call& call = {}) const;

    /// Of the library's own; see Sandbox::create_context.
    struct Impl;
    /// Of the library's own; see Sandbox::create_context.
    explicit CodeContext(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<const Impl> impl_;
};

}  // namespace v1
}  // namespace spore
