#pragma once

// Frames of the agent protocol (schema/agent.fbs) on a byte stream, for both of its ends.
// UNTRUSTED BYTES: FrameReader is the one place where they become wire::Frame; it verifies all
// offsets and lengths before it hands one out. Fuzz target: tests/fuzz/fuzz_agent_frame.cc.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"
#include "schema/agent_generated.h"

namespace spore {

// The versions of the protocol that this tree speaks.
inline constexpr uint16_t kAgentProtocolMin = 1;
inline constexpr uint16_t kAgentProtocolMax = 4;

// The one to speak with a peer that speaks `peer_min` to `peer_max`; nothing if there is none.
std::optional<uint16_t> agent_protocol_with(uint16_t peer_min, uint16_t peer_max);

// The version that brought this body.
uint16_t agent_protocol_of(wire::Body body);

wire::ErrorCode to_wire(Code code);
// Code::internal for a value that this version does not know.
Code from_wire(wire::ErrorCode code);

// Collects received bytes and cuts them into frames. Memory follows what has really arrived, not
// what a length field announces, and is given back after a large frame. Not thread-safe.
class FrameReader {
  public:
    // Where the next bytes are to be received: at least one.
    // Ends the life of the last frame.
    std::span<std::byte> room();
    // `count` bytes have been put at the start of room().
    void received(size_t count);
    // The next frame, verified, alive until the next call of anything here; nullptr if it has not
    // arrived whole. Error corrupt: the stream is beyond repair, close it.
    Result<const wire::Frame*> next();
    // That frame's bytes, its length field before it; aligned as it is they can be read again by
    // wire::GetSizePrefixedFrame.
    std::span<const std::byte> bytes() const { return last_; }

  private:
    size_t size() const { return end_ - begin_; }
    size_t rest_of_frame() const;
    void move_to_front();
    void reserve(size_t capacity);

    // Blocks of new[] are aligned for every scalar of a FlatBuffer; a frame is verified and read
    // only where its length field is too.
    std::unique_ptr<std::byte[]> data_;
    size_t capacity_ = 0;
    size_t begin_ = 0;
    size_t end_ = 0;
    std::span<const std::byte> last_;
};

// Builds frames, one at a time, in one buffer that it keeps. Not thread-safe.
class FrameBuilder {
  public:
    // For strings, vectors and the body, of the frame that `finish` completes.
    flatbuffers::FlatBufferBuilder& buffer() { return buffer_; }

    // The whole frame, length included; alive until `reset`. May be above kFrameBytesMax, which
    // whoever builds from unbounded data checks.
    template <typename Body>
    std::span<const std::byte> finish(uint32_t stream, flatbuffers::Offset<Body> body) {
        return finish(stream, wire::BodyTraits<Body>::enum_value, body.Union());
    }

    std::span<const std::byte> finish(uint32_t stream, wire::Body type,
                                      flatbuffers::Offset<void> body);

    void reset();

  private:
    flatbuffers::FlatBufferBuilder buffer_;
};

// The string's bytes, empty if it is absent.
inline std::string_view view(const flatbuffers::String* string) {
    return string == nullptr ? std::string_view()
                             : std::string_view(string->c_str(), string->size());
}

// The vector's bytes, empty if it is absent.
inline std::span<const std::byte> view(const flatbuffers::Vector<uint8_t>* bytes) {
    if (bytes == nullptr)
        return {};
    return std::as_bytes(std::span(bytes->data(), bytes->size()));
}

}  // namespace spore
