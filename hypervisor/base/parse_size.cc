#include "hypervisor/base/parse_size.h"

#include <charconv>

#include "hypervisor/base/invalid.h"

namespace spore {

Result<uint64_t> parse_size(std::string_view what, std::string_view text) {
    uint64_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
    if (error == std::errc::result_out_of_range)
        return invalid(what, text, "is more than 2^64 bytes");
    if (error != std::errc() || suffix.size() > 1)
        return invalid(what, text, "is not a size (a number, then nothing, K, M, G or T)");
    unsigned shift = 0;
    if (!suffix.empty()) {
        size_t index = std::string_view("KMGT").find(suffix[0]);
        if (index == std::string_view::npos)
            return invalid(what, text, "is not a size (a number, then nothing, K, M, G or T)");
        shift = static_cast<unsigned>(10 * (index + 1));
    }
    if (number > ~uint64_t{0} >> shift)
        return invalid(what, text, "is more than 2^64 bytes");
    return number << shift;
}

}  // namespace spore
