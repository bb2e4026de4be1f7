#pragma once

/// @file
/// The one error type of Spore, and what functions return it in. Nothing of this library throws.

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace spore {

/// What kind of error it is. Stable: each has one name, which `spore --json` prints too, and one
/// exit status of the command line.
enum class Code {
    invalid_argument,    ///< What was asked for cannot be; asking again will not help.
    not_found,           ///< There is no such thing.
    already_exists,      ///< There is such a thing already.
    permission_denied,   ///< The host or the guest does not allow it.
    host_unsupported,    ///< This host, or the sandbox's agent, cannot do it.
    resource_exhausted,  ///< A limit is reached: memory, disk, descriptors, a bound of Spore's.
    corrupt,             ///< Data is not what was written, or a peer breaks the protocol.
    version_mismatch,    ///< Data or peer are of a version that cannot be worked with.
    timeout,             ///< The deadline was over.
    unavailable,         ///< It is not there now: ended, closed, cancelled or busy.
    internal,            ///< A fault of Spore's own, or an error of the host without a better word.
};

/// The word for `code`, such as "not_found".
constexpr std::string_view code_name(Code code) {
    switch (code) {
        case Code::invalid_argument:
            return "invalid_argument";
        case Code::not_found:
            return "not_found";
        case Code::already_exists:
            return "already_exists";
        case Code::permission_denied:
            return "permission_denied";
        case Code::host_unsupported:
            return "host_unsupported";
        case Code::resource_exhausted:
            return "resource_exhausted";
        case Code::corrupt:
            return "corrupt";
        case Code::version_mismatch:
            return "version_mismatch";
        case Code::timeout:
            return "timeout";
        case Code::unavailable:
            return "unavailable";
        case Code::internal:
            break;
    }
    return "internal";
}

/// What went wrong.
struct Error {
    Code code = Code::internal;  ///< For programs.
    std::string message;         ///< For a person: "<what>: <why>", naming the value and the bound.

    /// Puts "context: " before the message: who was doing what when it happened.
    Error within(std::string_view context) && {
        message.insert(0, ": ").insert(0, context);
        return std::move(*this);
    }
};

/// A value, or why there is none.
template <typename T>
using Result = std::expected<T, Error>;
/// Done, or why not.
using Status = Result<void>;

}  // namespace spore
