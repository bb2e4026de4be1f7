#include "schema/frame.h"
#include "hypervisor/base/agent_limits.h"

#include <algorithm>
#include <cstring>

namespace spore {

namespace {

constexpr size_t kLengthBytes = sizeof(uint32_t);
constexpr size_t kAlignment = 8;
// The smallest FlatBuffer with an identifier and a table.
constexpr uint32_t kPayloadBytesMin = 12;
// A chunk of data with its frame around it.
constexpr size_t kReceiveBytes = limits::kFrameChunkBytes + 1024;
// Room for some of them at once: fewer receives, and seldom a part of one to be moved to the front.
constexpr size_t kKeptBytes = 4 * kReceiveBytes;
// Moving so many bytes costs more than a receive.
constexpr size_t kLargeRestBytes = 16 * limits::kKiB;
// A depth that no frame of ours comes near.
constexpr uint32_t kTableDepthMax = 8;

static_assert(static_cast<int>(wire::ErrorCode::invalid_argument) ==
              static_cast<int>(Code::invalid_argument));
static_assert(static_cast<int>(wire::ErrorCode::resource_exhausted) ==
              static_cast<int>(Code::resource_exhausted));
static_assert(static_cast<int>(wire::ErrorCode::version_mismatch) ==
              static_cast<int>(Code::version_mismatch));
static_assert(static_cast<int>(wire::ErrorCode::MAX) == static_cast<int>(Code::internal));

uint32_t length_at(const std::byte* at) {
    return flatbuffers::ReadScalar<uint32_t>(at);
}

}  // namespace

std::optional<uint16_t> agent_protocol_with(uint16_t peer_min, uint16_t peer_max) {
    const uint16_t highest = std::min(peer_max, kAgentProtocolMax);
    if (highest < std::max(peer_min, kAgentProtocolMin))
        return std::nullopt;
    return highest;
}

uint16_t agent_protocol_of(wire::Body body) {
    if (body <= wire::Body::GrowRoot)
        return 1;
    if (body <= wire::Body::SetClock)
        return 2;
    return body <= wire::Body::Usage ? 3 : 4;
}

wire::ErrorCode to_wire(Code code) {
    return static_cast<wire::ErrorCode>(code);
}

Code from_wire(wire::ErrorCode code) {
    return code > wire::ErrorCode::MAX ? Code::internal : static_cast<Code>(code);
}

std::span<std::byte> FrameReader::room() {
    if (begin_ == end_)
        begin_ = end_ = 0;
    if (size() == 0 && capacity_ > kKeptBytes) {
        data_.reset();
        capacity_ = 0;
    }
    const size_t rest = rest_of_frame();
    const size_t least = rest == 0 ? kReceiveBytes : std::min(rest, kReceiveBytes);
    if (capacity_ - end_ < least) {
        move_to_front();
        if (capacity_ - end_ < least)
            reserve(std::max(kKeptBytes, end_ * 2));
    }
    // A large frame is received to its end and no further, or the part of the next one that came
    // with it would have to be moved to the front.
    const size_t most = rest >= kLargeRestBytes ? rest : std::max(rest, kReceiveBytes);
    return {data_.get() + end_, std::min(capacity_ - end_, most)};
}

// What the frame that has begun still lacks; 0 if that is not known.
size_t FrameReader::rest_of_frame() const {
    if (size() < kLengthBytes)
        return 0;
    const size_t whole = kLengthBytes + length_at(data_.get() + begin_);
    return whole <= size() ? 0 : whole - size();
}

void FrameReader::received(size_t count) {
    end_ += std::min(count, capacity_ - end_);
}

Result<const wire::Frame*> FrameReader::next() {
    if (size() < kLengthBytes)
        return nullptr;
    const uint32_t length = length_at(data_.get() + begin_);
    if (length < kPayloadBytesMin || length > limits::kFrameBytesMax) {
        return fail(Code::corrupt, "frame of " + std::to_string(length) + " bytes: must be " +
                                       std::to_string(kPayloadBytesMin) + " to " +
                                       std::to_string(limits::kFrameBytesMax));
    }
    const size_t whole = kLengthBytes + length;
    if (size() < whole)
        return nullptr;
    std::byte* aligned = data_.get() + begin_ - begin_ % kAlignment;
    // Down over the end of the frame before it, which is no longer needed.
    if (begin_ % kAlignment != 0)
        std::memmove(aligned, data_.get() + begin_, whole);
    begin_ += whole;
    const auto* frame = reinterpret_cast<const uint8_t*>(aligned);
    flatbuffers::Verifier verifier(frame, whole, kTableDepthMax, limits::kFrameTablesMax);
    if (!wire::VerifySizePrefixedFrameBuffer(verifier)) {
        return fail(Code::corrupt,
                    "frame of " + std::to_string(length) + " bytes: not a valid agent frame");
    }
    last_ = {aligned, whole};
    return wire::GetSizePrefixedFrame(frame);
}

void FrameReader::move_to_front() {
    if (begin_ == 0)
        return;
    std::memmove(data_.get(), data_.get() + begin_, size());
    end_ -= begin_;
    begin_ = 0;
}

void FrameReader::reserve(size_t capacity) {
    // Aligned to 16 by operator new, which kAlignment needs.
    auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity);
    if (size() > 0)
        std::memcpy(larger.get(), data_.get() + begin_, size());
    end_ -= begin_;
    begin_ = 0;
    data_ = std::move(larger);
    capacity_ = capacity;
}

std::span<const std::byte> FrameBuilder::finish(uint32_t stream, wire::Body type,
                                                flatbuffers::Offset<void> body) {
    buffer_.FinishSizePrefixed(wire::CreateFrame(buffer_, stream, type, body),
                               wire::FrameIdentifier());
    return std::as_bytes(std::span(buffer_.GetBufferPointer(), buffer_.GetSize()));
}

void FrameBuilder::reset() {
    if (buffer_.GetSize() > kKeptBytes)
        buffer_ = flatbuffers::FlatBufferBuilder();
    else
        buffer_.Clear();
}

}  // namespace spore
