#pragma once

#include <string>

namespace spore {

// An error's text as one line that moves no terminal's cursor: names out of a file or from a guest
// may hold anything.
inline std::string one_line(std::string text) {
    while (!text.empty() && text.back() == '\n')
        text.pop_back();
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            c = ' ';
    }
    return text;
}

}  // namespace spore
