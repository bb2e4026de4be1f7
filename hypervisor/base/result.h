#pragma once

// The one error type, and the one way to pass it on.

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include "hypervisor/include/spore/error.h"

namespace spore {

// Code, Error, Result and Status are those of the installed header (hypervisor/include/spore).

// The code of that word; `internal` for one that is not known here.
Code code_from_name(std::string_view name);

// The process exit status that shared/cli.md assigns to `code` (64..77).
int exit_status(Code code);

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
