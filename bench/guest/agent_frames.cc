// Writes agent_frames.h: the answers of the freestanding agent guest (agent.c), built by the
// protocol's own code, and where its numbers lie in them.

#include <cstdio>

#include "schema/frame.h"

namespace spore {

namespace {

constexpr uint32_t kAnyStream = 0x5eed;  // not the default, which a FlatBuffer leaves out
constexpr size_t kOutputBytes = 64;
constexpr uint16_t kSpoken = 2;  // the version whose requests it knows

size_t place_in(std::span<const std::byte> frame, const void* field) {
    return static_cast<size_t>(static_cast<const std::byte*>(field) - frame.data());
}

void print(const char* name, std::span<const std::byte> frame) {
    std::printf("static u8 k%s[] __attribute__((aligned(4))) = {", name);
    for (size_t at = 0; at < frame.size(); at++)
        std::printf("%s%u,", at % 20 == 0 ? "\n    " : " ", static_cast<unsigned>(frame[at]));
    const auto* root = wire::GetSizePrefixedFrame(frame.data());
    const auto* table = reinterpret_cast<const flatbuffers::Table*>(root);
    std::printf("\n};\nenum { k%sStream = %zu };\n", name,
                place_in(frame, table->GetAddressOf(wire::Frame::VT_STREAM)));
    if (const auto* output = root->body_as_Output())
        std::printf("enum { k%sLength = %zu };\n", name, place_in(frame, output->bytes()));
}

template <typename Build>
void print(const char* name, Build build) {
    FrameBuilder builder;
    print(name, builder.finish(kAnyStream, build(builder.buffer())));
}

void print_request(const char* name, wire::Body body) {
    std::printf("enum { k%sRequest = %d };\n", name, static_cast<int>(body));
}

void print_answers() {
    using Builder = flatbuffers::FlatBufferBuilder;
    print("HelloReply", [](Builder& to) {
        auto version = to.CreateString("freestanding");
        auto boot_id = to.CreateString("00000000-0000-0000-0000-000000000000");
        return wire::CreateHelloReply(to, kSpoken, version, boot_id, wire::State::ready);
    });
    print("Done", [](Builder& to) { return wire::CreateDone(to); });
    print("Pong", [](Builder& to) { return wire::CreatePong(to); });
    print("Started", [](Builder& to) { return wire::CreateStarted(to, 1, 0); });
    print("Output", [](Builder& to) {
        std::vector<uint8_t> room(kOutputBytes);
        return wire::CreateOutput(to, 1, to.CreateVector(room));
    });
    print("Exited", [](Builder& to) { return wire::CreateExited(to); });
    print("Sealed", [](Builder& to) {
        return wire::CreateError(to, wire::ErrorCode::unavailable, to.CreateString("is sealed"));
    });
    print("Unknown", [](Builder& to) {
        return wire::CreateError(to, wire::ErrorCode::invalid_argument,
                                 to.CreateString("not known to the freestanding agent"));
    });
}

void print_requests() {
    print_request("Hello", wire::Body::Hello);
    print_request("Ping", wire::Body::Ping);
    print_request("Exec", wire::Body::Exec);
    print_request("StdinData", wire::Body::StdinData);
    print_request("Credit", wire::Body::Credit);
    print_request("Signal", wire::Body::Signal);
    print_request("Identity", wire::Body::Identity);
    print_request("PrepareSnapshot", wire::Body::PrepareSnapshot);
    print_request("PowerOff", wire::Body::PowerOff);
    print_request("GrowRoot", wire::Body::GrowRoot);
    print_request("SetClock", wire::Body::SetClock);
    std::printf(
        "enum { kFieldStream = %d, kFieldBodyType = %d, kFieldBody = %d, "
        "kFieldHostname = %d };\nenum { kOutputBytes = %zu };\n",
        wire::Frame::VT_STREAM, wire::Frame::VT_BODY_TYPE, wire::Frame::VT_BODY,
        wire::Identity::VT_HOSTNAME, kOutputBytes);
}

}  // namespace

}  // namespace spore

int main() {
    std::printf("/* Made by agent_frames.cc. */\n");
    spore::print_answers();
    spore::print_requests();
    return 0;
}
