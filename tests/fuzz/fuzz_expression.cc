// A regular expression and a line to look through, both any bytes: what is found lies within the
// line, and no expression takes more than its bounds.
#include <cstdlib>

#include "agent/expression.h"
#include "hypervisor/base/agent_limits.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const size_t newline = std::min(input.find('\n'), input.size());
    const std::string_view pattern = input.substr(0, newline);
    const std::string_view line = input.substr(std::min(newline + 1, input.size()));
    const auto expression = Expression::compile(pattern);
    if (!expression) {
        if (expression.error().code != Code::invalid_argument)
            std::abort();
        return 0;
    }
    const auto match = expression->find(line.substr(0, limits::kLogLineBytesMax));
    if (match && (match->begin > line.size() || match->length > line.size() - match->begin))
        std::abort();
    return 0;
}
