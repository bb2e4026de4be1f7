// What an interpreter answers, any bytes, in pieces: it ends, or is refused as corrupt.
#include <cstdlib>

#include "hypervisor/sandbox/code_answers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    size_t written = 0;
    const auto sink = [&](std::string_view bytes) -> Status {
        written += bytes.size();
        return {};
    };
    const RunStreams streams = {.on_stdout = sink, .on_stderr = sink, .on_display = {}};
    CodeAnswers answers(7, streams);
    std::string_view rest(reinterpret_cast<const char*>(data), size);
    while (!rest.empty()) {
        // The first byte of a piece is its length, and 0 that something was lost.
        const size_t length = static_cast<unsigned char>(rest[0]);
        rest.remove_prefix(1);
        if (length == 0)
            answers.lost();
        const std::string_view piece = rest.substr(0, length);
        rest.remove_prefix(piece.size());
        const Status taken = answers.take(piece);
        if (!taken && taken.error().code != Code::corrupt)
            std::abort();
        if (!taken)
            break;
    }
    if (written > size)
        std::abort();
    return 0;
}
