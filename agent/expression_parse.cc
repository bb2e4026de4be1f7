// From a pattern to the steps of its machine.

#include <algorithm>
#include <cctype>

#include "agent/expression.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

constexpr uint32_t kRepeatMax = 255;  // RE_DUP_MAX of POSIX
constexpr uint32_t kNoMax = UINT32_MAX;

using ByteSet = std::bitset<256>;

struct NamedClass {
    std::string_view name;
    int (*has)(int);
};
constexpr NamedClass kClasses[] = {
    {"alnum", std::isalnum}, {"alpha", std::isalpha}, {"blank", std::isblank},
    {"cntrl", std::iscntrl}, {"digit", std::isdigit}, {"graph", std::isgraph},
    {"lower", std::islower}, {"print", std::isprint}, {"punct", std::ispunct},
    {"space", std::isspace}, {"upper", std::isupper}, {"xdigit", std::isxdigit}};

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

ByteSet bytes_that(int (*has)(int)) {
    ByteSet set;
    for (int byte = 0; byte < 128; ++byte)
        set.set(static_cast<size_t>(byte), has(byte) != 0);
    return set;
}

// What `\c` stands for beyond POSIX; nothing: for c itself.
ByteSet escaped_class(char c) {
    switch (c) {
        case 'd':
        case 'D':
            return bytes_that(std::isdigit);
        case 'w':
        case 'W':
            return bytes_that(std::isalnum).set('_');
        case 's':
        case 'S':
            return bytes_that(std::isspace);
        default:
            return {};
    }
}

}  // namespace

// Recursive descent by the grammar of POSIX 9.5.3, no deeper than kExpressionDepthMax.
class ExpressionParser {
  public:
    explicit ExpressionParser(std::string_view pattern) : pattern_(pattern) {}

    Result<Expression> parse();

  private:
    using Step = Expression::Step;
    using Kind = Step::Kind;
    // Steps whose places count from its begin. It is left behind its last one.
    using Part = std::vector<Step>;

    Result<Part> alternatives(uint32_t depth);
    Result<Part> branch(uint32_t depth);
    Result<Part> atom(uint32_t depth);
    Result<Part> escaped();
    Result<Part> bracket();
    Result<ByteSet> bracket_class(char kind, size_t begin);
    Result<Part> repeated(Part part);
    Result<Part> interval(const Part& part);
    Result<uint32_t> count();
    Result<Part> repeat(const Part& part, uint32_t min, uint32_t max);
    Status append(Part& to, const Part& part) const;

    Part one(const ByteSet& set);
    Part one_byte(char c) { return one(ByteSet().set(static_cast<unsigned char>(c))); }
    std::unexpected<Error> wrong(const std::string& why) const {
        return fail(Code::invalid_argument,
                    "expression: " + why + ", at byte " + std::to_string(at_));
    }
    bool at_end() const { return at_ == pattern_.size(); }
    char peek() const { return pattern_[at_]; }
    bool take(char c) {
        const bool is = !at_end() && peek() == c;
        at_ += is;
        return is;
    }

    std::string_view pattern_;
    size_t at_ = 0;
    std::vector<ByteSet> sets_;
};

Result<Expression> Expression::compile(std::string_view pattern) {
    if (pattern.size() > limits::kExpressionBytesMax) {
        return fail(Code::invalid_argument, "expression of " + std::to_string(pattern.size()) +
                                                " bytes: at most " +
                                                std::to_string(limits::kExpressionBytesMax));
    }
    return ExpressionParser(pattern).parse();
}

Result<Expression> ExpressionParser::parse() {
    Expression expression;
    expression.steps_ = TRY(alternatives(0));
    if (!at_end())
        return wrong("')' without '('");
    expression.steps_.push_back({Kind::match});
    expression.sets_ = std::move(sets_);
    return expression;
}

Status ExpressionParser::append(Part& to, const Part& part) const {
    if (to.size() + part.size() > limits::kExpressionStepsMax) {
        return wrong("its repetitions make more than " +
                     std::to_string(limits::kExpressionStepsMax) + " steps");
    }
    const auto offset = static_cast<uint32_t>(to.size());
    for (Step step : part) {
        if (step.kind != Kind::byte_set) {
            step.first += offset;
            step.second += offset;
        }
        to.push_back(step);
    }
    return {};
}

ExpressionParser::Part ExpressionParser::one(const ByteSet& set) {
    const auto found = std::ranges::find(sets_, set);
    const auto index = static_cast<uint32_t>(found - sets_.begin());
    if (found == sets_.end())
        sets_.push_back(set);
    return {{Kind::byte_set, index}};
}

Result<ExpressionParser::Part> ExpressionParser::alternatives(uint32_t depth) {
    Part left = TRY(branch(depth));
    while (take('|')) {
        const Part right = TRY(branch(depth));
        const auto second = static_cast<uint32_t>(left.size() + 2);
        const auto end = static_cast<uint32_t>(second + right.size());
        Part both = {{Kind::split, 1, second}};
        TRY(append(both, left));
        both.push_back({Kind::split, end, end});
        TRY(append(both, right));
        left = std::move(both);
    }
    return left;
}

Result<ExpressionParser::Part> ExpressionParser::branch(uint32_t depth) {
    Part all;
    while (!at_end() && peek() != '|' && peek() != ')')
        TRY(append(all, TRY(repeated(TRY(atom(depth))))));
    return all;
}

Result<ExpressionParser::Part> ExpressionParser::atom(uint32_t depth) {
    const char c = pattern_[at_++];
    switch (c) {
        case '(': {
            if (depth == limits::kExpressionDepthMax)
                return wrong("more than " + std::to_string(depth) + " parentheses in each other");
            Part inner = TRY(alternatives(depth + 1));
            if (!take(')'))
                return wrong("'(' without ')'");
            return inner;
        }
        case '[':
            return bracket();
        case '\\':
            return escaped();
        case '.':
            return one(ByteSet().set());
        case '^':
            return Part{{Kind::line_begin, 1}};
        case '$':
            return Part{{Kind::line_end, 1}};
        case '*':
        case '+':
        case '?':
            return wrong(std::string("nothing to repeat before '") + c + "'");
        case '{':
            // regex(7): before anything but a digit it stands for itself.
            if (!at_end() && is_digit(peek()))
                return wrong("nothing to repeat before '{'");
            [[fallthrough]];
        default:
            return one_byte(c);
    }
}

Result<ExpressionParser::Part> ExpressionParser::escaped() {
    if (at_end())
        return wrong("'\\' at its end");
    const char c = pattern_[at_++];
    if (is_digit(c))
        return wrong("references back are not served");
    const ByteSet set = escaped_class(c);
    if (set.none())
        return one_byte(c);
    return one(std::isupper(static_cast<unsigned char>(c)) ? ~set : set);
}

// What follows an atom: any number of *, +, ? and {m,n}.
Result<ExpressionParser::Part> ExpressionParser::repeated(Part part) {
    while (!at_end()) {
        if (take('*'))
            part = TRY(repeat(part, 0, kNoMax));
        else if (take('+'))
            part = TRY(repeat(part, 1, kNoMax));
        else if (take('?'))
            part = TRY(repeat(part, 0, 1));
        else if (peek() == '{' && at_ + 1 < pattern_.size() && is_digit(pattern_[at_ + 1]))
            part = TRY(interval(part));
        else
            break;
    }
    return part;
}

Result<ExpressionParser::Part> ExpressionParser::interval(const Part& part) {
    take('{');
    const uint32_t min = TRY(count());
    uint32_t max = min;
    if (take(','))
        max = !at_end() && is_digit(peek()) ? TRY(count()) : kNoMax;
    if (!take('}'))
        return wrong("'{' without '}'");
    if (max < min)
        return wrong("an interval whose end is before its begin");
    return repeat(part, min, max);
}

Result<uint32_t> ExpressionParser::count() {
    uint32_t value = 0;
    while (!at_end() && is_digit(peek())) {
        value = value * 10 + static_cast<uint32_t>(pattern_[at_++] - '0');
        if (value > kRepeatMax)
            return wrong("more than " + std::to_string(kRepeatMax) + " repetitions");
    }
    return value;
}

Result<ExpressionParser::Part> ExpressionParser::repeat(const Part& part, uint32_t min,
                                                        uint32_t max) {
    const auto size = static_cast<uint32_t>(part.size());
    Part all;
    for (uint32_t i = 0; i < min; ++i)
        TRY(append(all, part));
    if (max == kNoMax) {
        const auto begin = static_cast<uint32_t>(all.size());
        all.push_back({Kind::split, begin + 1, begin + size + 2});
        TRY(append(all, part));
        all.push_back({Kind::split, begin, begin});
        return all;
    }
    // Each of those that may be left out leads on to the next, or to the end.
    const auto end = static_cast<uint32_t>(all.size()) + (max - min) * (size + 1);
    for (uint32_t i = min; i < max; ++i) {
        all.push_back({Kind::split, static_cast<uint32_t>(all.size() + 1), end});
        TRY(append(all, part));
    }
    return all;
}

Result<ExpressionParser::Part> ExpressionParser::bracket() {
    const bool inverted = take('^');
    ByteSet set;
    // A ']' that stands first is one of the set.
    const size_t first = at_;
    while (at_ == first || !take(']')) {
        if (at_end())
            return wrong("'[' without ']'");
        const size_t begin = at_;
        const char c = pattern_[at_++];
        if (c == '[' && !at_end() && (peek() == ':' || peek() == '=' || peek() == '.')) {
            set |= TRY(bracket_class(pattern_[at_++], begin));
            continue;
        }
        const bool range = at_ + 1 < pattern_.size() && peek() == '-' && pattern_[at_ + 1] != ']';
        if (!range) {
            set.set(static_cast<unsigned char>(c));
            continue;
        }
        const char last = pattern_[at_ + 1];
        at_ += 2;
        if (last == '[' && !at_end() && (peek() == ':' || peek() == '=' || peek() == '.'))
            return wrong("a class as the end of a range");
        if (static_cast<unsigned char>(last) < static_cast<unsigned char>(c))
            return wrong("a range whose end is before its begin");
        for (unsigned byte = static_cast<unsigned char>(c);
             byte <= static_cast<unsigned char>(last); ++byte)
            set.set(byte);
    }
    return one(inverted ? ~set : set);
}

// [:alpha:], [=a=] or [.a.], behind its first two bytes.
Result<ByteSet> ExpressionParser::bracket_class(char kind, size_t begin) {
    const char closing[] = {kind, ']', '\0'};
    const size_t end = pattern_.find(closing, at_);
    if (end == std::string_view::npos)
        return wrong("a class within '[' that does not end");
    const std::string_view name = pattern_.substr(at_, end - at_);
    at_ = end + 2;
    if (kind != ':') {
        if (name.size() != 1)
            return wrong("'" + std::string(pattern_.substr(begin, at_ - begin)) +
                         "' stands for no byte");
        return ByteSet().set(static_cast<unsigned char>(name[0]));
    }
    const auto* const found = std::ranges::find(kClasses, name, &NamedClass::name);
    if (found == std::end(kClasses))
        return wrong("no class is called '" + std::string(name) + "'");
    return bytes_that(found->has);
}

}  // namespace spore
