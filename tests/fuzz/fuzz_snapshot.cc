// A snapshot's state file: open_state() on any bytes; and decode_state() on them as a payload,
// since nobody guesses a checksum. What it accepts is within the bounds it promises.
#include <cstdlib>

#include "hypervisor/base/limits.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/state_file.h"

namespace {

void decode(std::span<const std::byte> payload) {
    using namespace spore;
    auto state = decode_state(payload);
    if (!state) {
        if (state.error().code != Code::corrupt)
            std::abort();
        return;
    }
    uint64_t bytes = 0, end = 0;
    for (const MemoryExtent& extent : state->memory.extents) {
        if (extent.size == 0 || extent.start.value() < end ||
            extent.start.value() + extent.size < extent.start.value())
            std::abort();
        end = extent.start.value() + extent.size;
        bytes += extent.size;
    }
    if (bytes != state->memory.image.file_bytes || state->vcpus.empty() ||
        state->vcpus.size() > limits::kVcpusMax || state->devices.size() >= limits::kPciSlots)
        std::abort();
    // What was understood can be written down and is understood again.
    auto again = decode_state(encode_state(*state));
    if (!again || again->devices.size() != state->devices.size())
        std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // With the alignment that the vector of read_state_file() has.
    std::vector<std::byte> bytes(size);
    std::memcpy(bytes.data(), data, size);
    if (auto payload = spore::open_state(bytes))
        decode(*payload);
    // A seed is a whole file: behind its header, whatever that says.
    if (size >= 40)
        bytes.erase(bytes.begin(), bytes.begin() + 40);
    decode(bytes);
    return 0;
}
