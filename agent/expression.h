#pragma once

// POSIX extended regular expressions (regex(7)) on bytes, in time that is linear in the text: the
// C library's take exponential time or memory for some, and these come from clients.
// UNTRUSTED BYTES: expressions and texts. Fuzz target: tests/fuzz/fuzz_expression.cc.

#include <bitset>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

class Expression {
  public:
    struct Match {
        size_t begin = 0;
        size_t length = 0;
    };

    // Character classes ([:alpha:]) are those of the C locale. Beyond POSIX: \d, \w, \s, \D, \W
    // and \S. Errors invalid_argument: what is wrong, and where.
    static Result<Expression> compile(std::string_view pattern);

    // The leftmost match, and the longest of those (POSIX 9.1); `text` is one line: ^ and $ are its
    // ends. Takes at most kExpressionStepsMax times its length.
    std::optional<Match> find(std::string_view text) const;

  private:
    friend class ExpressionParser;
    class Search;

    // What the machine does in one state: `byte_set` goes on at the next state with a byte of that
    // set; `split` goes on at both; the ends of a line and `match` take no byte.
    struct Step {
        enum class Kind : uint8_t { byte_set, split, line_begin, line_end, match } kind;
        uint32_t first = 0;   // byte_set: which; else where to go on
        uint32_t second = 0;  // split
    };

    std::vector<std::bitset<256>> sets_;
    std::vector<Step> steps_;  // begins at 0
};

}  // namespace spore
