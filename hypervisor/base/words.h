#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace spore {

// The words with `between` between each two.
inline std::string joined(const std::vector<std::string>& words, std::string_view between = ", ") {
    std::string text;
    for (size_t i = 0; i < words.size(); i++) {
        if (i > 0)
            text += between;
        text += words[i];
    }
    return text;
}

}  // namespace spore
