#pragma once

/// @file
/// How long a call may take, and who may end it before.

#include <chrono>
#include <stop_token>

namespace spore {
inline namespace v1 {

/// Every call that makes or talks to a sandbox takes one. Without one it waits as long as it takes.
struct Call {
    /// The call ends then with Code::timeout, and what it was doing is ended in the guest too: a
    /// command is killed, a file that was being replaced is as it was.
    std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
    /// Where a stop is requested, from any thread, the call ends at once with Code::unavailable,
    /// and what it was doing as at the deadline.
    std::stop_token stop = {};

    /// A call that may take this long from now.
    static Call within(std::chrono::milliseconds limit, std::stop_token stop = {}) {
        return {std::chrono::steady_clock::now() + limit, std::move(stop)};
    }
};

}  // namespace v1
}  // namespace spore
