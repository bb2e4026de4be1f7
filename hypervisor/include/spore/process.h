#pragma once

/// @file
/// Processes in a sandbox that no call and no connection owns.

#include <spore/call.h>
#include <spore/command.h>
#include <spore/error.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// A process started by Sandbox::start. It runs on when this object, the connection or the program
/// that started it is gone, and can be found again by its ID or name; so can one that has ended,
/// until it is removed. Cheap to copy; thread-safe as Sandbox. Errors of every call beside its own:
/// not_found (it was removed), timeout, unavailable, host_unsupported (an agent that is too old).
class Process {
  public:
    /// What to start.
    struct Spec {
        Command command;             ///< Its timeout, input and input_fd count nothing.
        std::string name = {};       ///< To find it by; of no other that runs. May be empty.
        bool with_stdin = false;     ///< Its standard input stays open, for `input`.
        uint64_t log_bytes_max = 0;  ///< Of its output kept, the oldest dropped; 0: 1 MiB or so.
    };

    /// What is known of it.
    struct Info {
        uint32_t id = 0;                                ///< Never used again in this sandbox.
        std::string name;                               ///< As in Spec.
        int pid = 0;                                    ///< In the guest; 0 once it has ended.
        std::vector<std::string> argv;                  ///< A long one's first words.
        std::chrono::system_clock::time_point started;  ///< By the guest's clock.
        std::chrono::system_clock::time_point ended;    ///< If `exit` is there.
        std::optional<Exit> exit;                       ///< Nothing: it runs.
        uint64_t log_bytes = 0;                         ///< Kept of its output.
        uint64_t log_dropped = 0;                       ///< No longer kept.
    };

    /// Some of its output, as it was read at once.
    struct Output {
        uint64_t sequence = 0;                       ///< 1, 2, … of both streams together.
        int fd = 0;                                  ///< 1 or 2.
        std::chrono::system_clock::time_point time;  ///< By the guest's clock.
        std::span<const std::byte> bytes;            ///< Alive while the sink runs.
        uint64_t dropped = 0;  ///< Bytes before these that were wanted and are no longer kept.
    };
    /// Takes output, in the thread that called; an error ends the call and is what it returns.
    using Sink = std::function<Status(const Output&)>;

    /// When a port is ready.
    struct PortCheck {
        uint16_t port = 0;      ///< On the guest's loopback.
        bool http = false;      ///< It must answer GET; else that it takes a connection is enough.
        std::string path = {};  ///< http: what to get; empty: "/".
        int status_min = 200;   ///< http: the least status that is good.
        int status_max = 399;   ///< http: the greatest.
    };

    /// A line of its output.
    struct Line {
        std::string text;       ///< Without its newline.
        size_t begin = 0;       ///< Where in it what was looked for begins.
        size_t length = 0;      ///< And how long that is.
        uint64_t sequence = 0;  ///< Of the Output in which the line ended.
    };

    uint32_t id() const;              ///< As Info::id.
    const std::string& name() const;  ///< As Spec::name.

    /// What is known of it now.
    Result<Info> info(const Call& call = {}) const;
    /// Its output from `from` on, to what there is, or with `follow` until it ends.
    Status logs(const Sink& sink, bool follow = false, uint64_t from = 0,
                const Call& call = {}) const;
    /// Waits for its end; at once if it has ended.
    Result<Exit> wait(const Call& call = {}) const;
    /// Waits until a port is ready: nothing; or until the process has ended: what became of it.
    Result<std::optional<Exit>> wait_port(const PortCheck& check, const Call& call = {}) const;
    /// Waits for the first line, from the first Output kept on, that has `pattern` in it: text, or
    /// with `expression` a POSIX extended regular expression. Errors also: unavailable (it ended
    /// without).
    Result<Line> wait_line(const std::string& pattern, bool expression = false,
                           const Call& call = {}) const;
    /// Feeds its standard input from a descriptor to its end, and with `close` ends it then. False:
    /// it has closed its standard input before. Errors also: unavailable (closed, or another feeds
    /// it).
    Result<bool> input(int fd, bool close = true, const Call& call = {}) const;
    /// The same from memory.
    Result<bool> input(const std::string& bytes, bool close = true, const Call& call = {}) const;
    /// A signal to its process group, or with `descendants` to all that came of it, wherever they
    /// are now. Errors also: unavailable (it has ended).
    Status signal(int number, bool descendants = false, const Call& call = {}) const;
    /// Forgets one that has ended, and its log. Errors also: unavailable while it runs.
    Status remove(const Call& call = {}) const;

    /// Of the library's own; see Sandbox::start.
    struct Impl;
    /// Of the library's own; see Sandbox::start.
    explicit Process(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<const Impl> impl_;
};

}  // namespace v1
}  // namespace spore
