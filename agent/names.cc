#include "agent/names.h"

#include <algorithm>

#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

bool is_name_byte(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

}  // namespace

Status check_given_name(std::string_view what, std::string_view name) {
    if (!name.empty() && name.size() <= limits::kNameBytesMax &&
        std::ranges::all_of(name, is_name_byte))
        return {};
    return fail(Code::invalid_argument,
                std::string(what) + " '" + std::string(name.substr(0, limits::kNameBytesMax)) +
                    "': must be 1 to " + std::to_string(limits::kNameBytesMax) +
                    " letters, digits, '-', '_' and '.'");
}

}  // namespace spore
