// A working set: decode_working_set() on any bytes, as a payload, since nobody guesses a checksum.
// What it accepts is within the bounds it promises.
#include <cstdlib>

#include "hypervisor/base/limits.h"
#include "hypervisor/snapshot/working_set.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    // With the alignment that the vector of read_checked_file() has.
    std::vector<std::byte> bytes(size);
    if (size != 0)
        std::memcpy(bytes.data(), data, size);
    auto set = decode_working_set(bytes);
    if (!set) {
        if (set.error().code != Code::corrupt)
            std::abort();
        return 0;
    }
    uint64_t end = 0, written = 0;
    for (const PageRun& run : set->runs) {
        if (run.pages == 0 || run.first_page < end ||
            run.first_page + run.pages > set->image_bytes / 4096)
            std::abort();
        end = run.first_page + run.pages;
        written += run.written ? run.pages : 0;
    }
    if (set->runs.size() > limits::kWorkingSetRunsMax ||
        written > limits::kWorkingSetWrittenPagesMax)
        std::abort();
    auto again = decode_working_set(encode_working_set(*set));
    if (!again || *again != *set)
        std::abort();
    return 0;
}
