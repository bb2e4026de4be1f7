#pragma once

// The edge of the library: nothing is thrown over it.

#include <exception>
#include <new>
#include <utility>

#include "hypervisor/base/result.h"

namespace spore {

// Calls `body`, which returns a Result or Status; what it throws (memory that is not there, or a
// callback of the program's) becomes an error.
template <typename Body>
auto guarded(Body&& body) noexcept -> decltype(body()) {
    try {
        return std::forward<Body>(body)();
    } catch (const std::bad_alloc&) {
        return fail(Code::resource_exhausted, "memory: is exhausted");
    } catch (const std::exception& exception) {
        return fail(Code::internal, std::string("exception: ") + exception.what());
    } catch (...) {
        return fail(Code::internal, "exception: of a type that is not known here");
    }
}

}  // namespace spore
