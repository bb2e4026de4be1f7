#pragma once

/// @file
/// Which Spore this is.

#include <string_view>

#if !__has_include(<expected>) || __cplusplus <= 202002L
#error "Spore's headers need C++23 with std::expected, as GCC 12 has it with -std=c++2b"
#endif

namespace spore {
inline namespace v1 {

/// Of these headers.
inline constexpr std::string_view kVersion = "0.1.0";

/// Of the library that the program runs with: "0.1.0". Thread-safe.
std::string_view library_version();

}  // namespace v1
}  // namespace spore
