#pragma once

// The one error type and the one way to pass it on.

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace spore {

// Stable words of the command line's contract: each has one name and one exit status.
enum class Code {
    invalid_argument,
    not_found,
    already_exists,
    permission_denied,
    host_unsupported,
    resource_exhausted,
    corrupt,
    version_mismatch,
    timeout,
    unavailable,
    internal,
};

// The word for `code` as --json prints it, e.g. "not_found".
std::string_view code_name(Code code);
// The code of that word; `internal` for one that is not known here.
Code code_from_name(std::string_view name);

// The process exit status that shared/cli.md assigns to `code` (64..77).
int exit_status(Code code);

// What went wrong, for a person: "<what>: <why>", naming the value and the bound.
struct Error {
    Code code = Code::internal;
    std::string message;

    // Puts "context: " before the message: who was doing what when it happened.
    Error within(std::string_view context) &&;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

inline std::unexpected<Error> fail(Code code, std::string message) {
    return std::unexpected(Error{code, std::move(message)});
}

// A failed system call: "<what>: <strerror>", the code chosen from errno. Call it at once.
std::unexpected<Error> fail_errno(std::string_view what, int error = errno);

namespace detail {
template <typename T>
T take(Result<T>&& result) {
    return std::move(*result);
}
inline void take(Status&&) {}
}  // namespace detail

// Evaluates to the value of a Result, or returns its error from the enclosing function. The counter
// gives each use its own name: one may stand within another.
#define TRY(expression) SPORE_TRY_EXPANDED(expression, __COUNTER__)
#define SPORE_TRY_EXPANDED(expression, number) SPORE_TRY(expression, number)
#define SPORE_TRY(expression, number)                                       \
    ({                                                                      \
        auto try_result_##number = (expression);                            \
        if (!try_result_##number) [[unlikely]]                              \
            return std::unexpected(std::move(try_result_##number).error()); \
        ::spore::detail::take(std::move(try_result_##number));              \
    })

}  // namespace spore
