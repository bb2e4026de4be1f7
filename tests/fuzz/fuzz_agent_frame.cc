// Bytes of a stream, torn at places that the input chooses, through schema/frame.h: no frame that
// it hands out may lead outside itself.

#include <algorithm>
#include <cstdlib>

#include "schema/frame.h"

namespace {

size_t touch(const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>* strings) {
    size_t sum = 0;
    if (strings != nullptr) {
        for (const auto* string : *strings)
            sum +=
                spore::view(string).size() + static_cast<uint8_t>(string->c_str()[string->size()]);
    }
    return sum;
}

size_t touch(std::string_view text) {
    return static_cast<size_t>(std::count(text.begin(), text.end(), 'x'));
}

size_t touch(std::span<const std::byte> bytes) {
    return static_cast<size_t>(std::count(bytes.begin(), bytes.end(), std::byte{1}));
}

// Every field that either side reads.
size_t touch(const spore::wire::Frame& frame) {
    using spore::view;
    if (const auto* body = frame.body_as_Exec()) {
        return touch(body->argv()) + touch(body->env()) + touch(body->env_unset()) +
               touch(view(body->cwd())) + touch(view(body->user())) + body->timeout_ms() +
               body->stdout_credit();
    }
    if (const auto* body = frame.body_as_Identity()) {
        size_t sum = touch(view(body->hostname())) + touch(view(body->machine_id())) +
                     touch(view(body->entropy())) + body->wall_clock_ns() + touch(body->env());
        if (const auto* network = body->network())
            sum += touch(view(network->mac())) + touch(view(network->address())) +
                   touch(view(network->gateway())) + touch(network->dns());
        return sum;
    }
    if (const auto* body = frame.body_as_StdinData())
        return touch(view(body->bytes())) + body->eof();
    if (const auto* body = frame.body_as_Output())
        return touch(view(body->bytes())) + body->fd();
    if (const auto* body = frame.body_as_Error())
        return touch(view(body->message())) + static_cast<size_t>(spore::from_wire(body->code()));
    if (const auto* body = frame.body_as_StartFailed())
        return touch(view(body->message())) + body->exit_status();
    if (const auto* body = frame.body_as_HelloReply())
        return touch(view(body->agent_version())) + touch(view(body->boot_id())) + body->version();
    if (const auto* body = frame.body_as_Exited())
        return body->exit_status() + body->cpu_us() + body->peak_memory_bytes();
    if (const auto* body = frame.body_as_Credit())
        return body->bytes() + body->fd();
    return frame.stream();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    auto input = std::as_bytes(std::span(data, size));
    size_t piece = size == 0 ? 1 : data[0] * 16u + 1;
    spore::FrameReader reader;
    while (!input.empty()) {
        const auto room = reader.room();
        const size_t count = std::min({room.size(), input.size(), piece});
        std::copy_n(input.begin(), count, room.begin());
        reader.received(count);
        input = input.subspan(count);
        while (true) {
            const auto frame = reader.next();
            if (!frame)
                return 0;
            if (*frame == nullptr)
                break;
            // Read, and not optimized away.
            const size_t sum = touch(**frame);
            asm volatile("" : : "r"(sum));
        }
    }
    return 0;
}
