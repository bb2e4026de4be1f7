// Regular expressions, also against those of the C library.

#include "agent/expression.h"

#include <gmock/gmock.h>
#include <regex.h>

#include <random>
#include <string>

#include "hypervisor/base/agent_limits.h"

namespace spore {
namespace {

using testing::HasSubstr;

// "begin+length" of the match, "none", or "error".
std::string found(std::string_view pattern, std::string_view text) {
    const auto expression = Expression::compile(pattern);
    if (!expression)
        return "error";
    const auto match = expression->find(text);
    return match ? std::to_string(match->begin) + "+" + std::to_string(match->length) : "none";
}

std::string found_by_libc(const std::string& pattern, const std::string& text) {
    regex_t compiled;
    if (::regcomp(&compiled, pattern.c_str(), REG_EXTENDED) != 0)
        return "error";
    regmatch_t match;
    const int result = ::regexec(&compiled, text.c_str(), 1, &match, 0);
    ::regfree(&compiled);
    return result == 0
               ? std::to_string(match.rm_so) + "+" + std::to_string(match.rm_eo - match.rm_so)
               : "none";
}

TEST(Expression, FindsTheLeftmostAndOfThoseTheLongest) {
    EXPECT_EQ(found("b", "abcb"), "1+1");
    EXPECT_EQ(found("a|ab|abc", "xabcabcd"), "1+3");
    EXPECT_EQ(found("(a|ab)(c|bcd)", "abcd"), "0+4");
    EXPECT_EQ(found("x*", "aaxx"), "0+0");
    EXPECT_EQ(found("x+", "aaxxa"), "2+2");
    EXPECT_EQ(found("", "abc"), "0+0");
    EXPECT_EQ(found("c$", "abcabc"), "5+1");
    EXPECT_EQ(found("^b", "abc"), "none");
    EXPECT_EQ(found("^$", ""), "0+0");
    EXPECT_EQ(found("a{2,3}", "aaaa"), "0+3");
    EXPECT_EQ(found("a{2}b", "aaab"), "1+3");
    EXPECT_EQ(found("a{2,}b", "aaaab"), "0+5");
    EXPECT_EQ(found("(ab)?c", "xabc"), "1+3");
    EXPECT_EQ(found("()*|(a*)*b", "aab"), "0+3");
}

TEST(Expression, KnowsBracketsClassesAndEscapes) {
    EXPECT_EQ(found("[[:digit:]]+", "port 8080!"), "5+4");
    EXPECT_EQ(found("[^a-c]", "abcd"), "3+1");
    EXPECT_EQ(found("[]a]+", "x]a"), "1+2");
    EXPECT_EQ(found("[^]a]", "]ab"), "2+1");
    EXPECT_EQ(found("[a-]+", "b-a"), "1+2");
    EXPECT_EQ(found("[[.-.]x]", "a-"), "1+1");
    EXPECT_EQ(found("[[=a=]]", "ba"), "1+1");
    EXPECT_EQ(found("\\.\\[", "a.["), "1+2");
    EXPECT_EQ(found("a{x", "a{x"), "0+3");
    EXPECT_EQ(found("\\d+\\s\\w", "a 12 b"), "2+4");
    EXPECT_EQ(found("\\D", "1a"), "1+1");
    EXPECT_EQ(found(".", "\xff"), "0+1");
    EXPECT_EQ(found(std::string_view("\0", 1), std::string_view("a\0", 2)), "1+1");
}

TEST(Expression, SaysWhatIsWrong) {
    for (const char* pattern :
         {"(", ")", "a)", "[", "[]", "[[:nosuch:]]", "[b-a]", "*a", "a|*", "(+)", "{2}", "a{2",
          "a{3,2}", "a{256}", "\\", "\\1", "[[:alpha:", "[a-[:digit:]]", "[[.ab.]]"})
        EXPECT_EQ(found(pattern, "a"), "error") << pattern;
    const auto wrong = Expression::compile("ab[z-a]");
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().code, Code::invalid_argument);
    EXPECT_THAT(wrong.error().message,
                HasSubstr("a range whose end is before its begin, at byte 6"));
}

TEST(Expression, IsBounded) {
    EXPECT_EQ(found(std::string(limits::kExpressionBytesMax + 1, 'a'), "a"), "error");
    EXPECT_EQ(found("((((a{1,255}){1,255}){1,255}){1,255}){1,255}", "a"), "error");
    EXPECT_EQ(found("((a?){255}){255}", "a"), "error");
    EXPECT_EQ(found("((){255}){255}", "a"), "0+0");
    const std::string deep = std::string(100, '(') + "a" + std::string(100, ')');
    EXPECT_EQ(found(deep, "a"), "error");
    EXPECT_EQ(found("(((((((((a*)*)*)*)*)*)*)*)*)*b", std::string(5000, 'a')), "none");
}

// The largest there may be, on the longest line: nothing that takes exponential time elsewhere.
TEST(Expression, TakesTimeThatIsLinearInTheText) {
    const std::string line(limits::kLogLineBytesMax, 'a');
    const auto expression = Expression::compile("((a|a)*(a|a)*){10}(a?){240}a{200}a{100}b");
    ASSERT_TRUE(expression) << expression.error().message;
    const auto begun = std::chrono::steady_clock::now();
    EXPECT_FALSE(expression->find(line));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    std::printf("a line of %zu bytes took %.3f s\n", line.size(), took.count());
    // Some 0.1 s; an exponential one would not end.
    EXPECT_LT(took.count(), 30);
}

// Small random expressions of a small alphabet: matches, and what is none at all, as glibc has it.
TEST(Expression, FindsWhatTheCLibraryFinds) {
    std::mt19937 random(1);
    constexpr const char* kPieces[] = {"a", "b", "c", ".", "[ab]",  "[^a]",  "(",
                                       ")", "|", "*", "+", "?",     "{1,2}", "{2}",
                                       "^", "$", "a", "b", "(a|b)", "(b|bc)"};
    size_t matches = 0;
    for (int round = 0; round < 20000; ++round) {
        std::string pattern, text;
        for (size_t i = 1 + random() % 6; i > 0; --i)
            pattern += kPieces[random() % std::size(kPieces)];
        for (size_t i = random() % 8; i > 0; --i)
            text += static_cast<char>('a' + random() % 3);
        const std::string own = found(pattern, text);
        // What POSIX leaves undefined is refused here, and given some meaning there.
        if (own == "error")
            continue;
        const std::string other = found_by_libc(pattern, text);
        if (other == "error")
            continue;
        EXPECT_EQ(own, other) << "'" << pattern << "' in '" << text << "'";
        matches += own != "none";
    }
    EXPECT_GT(matches, 3000u);
}

}  // namespace
}  // namespace spore
