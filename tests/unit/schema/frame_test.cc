#include "schema/frame.h"
#include "hypervisor/base/agent_limits.h"

#include <gmock/gmock.h>

#include <random>
#include <vector>

namespace spore {
namespace {

std::vector<std::byte> output_frame(uint32_t stream, size_t size) {
    FrameBuilder builder;
    const auto bytes =
        builder.buffer().CreateVector(std::vector<uint8_t>(size, static_cast<uint8_t>(stream)));
    const auto frame = builder.finish(stream, wire::CreateOutput(builder.buffer(), 1, bytes));
    return {frame.begin(), frame.end()};
}

void feed(FrameReader& reader, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const auto room = reader.room();
        ASSERT_FALSE(room.empty());
        const size_t count = std::min(room.size(), bytes.size());
        std::copy_n(bytes.begin(), count, room.begin());
        reader.received(count);
        bytes = bytes.subspan(count);
    }
}

TEST(FrameReader, CutsAStreamIntoFramesWhereverItIsTorn) {
    std::vector<std::byte> stream;
    constexpr uint32_t kFrames = 40;
    for (uint32_t i = 1; i <= kFrames; ++i) {
        const auto frame = output_frame(i, i * i * 7 % 3000);
        stream.insert(stream.end(), frame.begin(), frame.end());
    }
    for (const size_t step : {1ul, 3ul, 7ul, 100ul, 4096ul, stream.size()}) {
        FrameReader reader;
        uint32_t seen = 0;
        for (size_t at = 0; at < stream.size(); at += step) {
            feed(reader, std::span(stream).subspan(at, std::min(step, stream.size() - at)));
            while (true) {
                const auto frame = reader.next();
                ASSERT_TRUE(frame) << frame.error().message;
                if (*frame == nullptr)
                    break;
                ++seen;
                ASSERT_EQ((*frame)->stream(), seen);
                const auto bytes = view((*frame)->body_as_Output()->bytes());
                ASSERT_EQ(bytes.size(), seen * seen * 7 % 3000);
                for (const std::byte byte : bytes)
                    ASSERT_EQ(byte, static_cast<std::byte>(seen));
            }
        }
        EXPECT_EQ(seen, kFrames);
    }
}

TEST(FrameReader, ReceivesALargeFrameToItsEndAndNoFurther) {
    constexpr size_t kFirst = 50'000, kStep = 70'000;
    std::vector<std::byte> stream;
    for (uint32_t i = 1; i <= 12; ++i) {
        const auto frame = output_frame(i, i % 3 == 0 ? 100 : 120'000 + i);
        stream.insert(stream.end(), frame.begin(), frame.end());
    }
    const size_t first_frame = output_frame(1, 120'001).size();
    FrameReader reader;
    feed(reader, std::span(stream).first(kFirst));
    EXPECT_EQ(*reader.next(), nullptr);
    EXPECT_EQ(reader.room().size(), first_frame - kFirst);
    uint32_t seen = 0;
    for (size_t at = kFirst; at < stream.size();) {
        const auto room = reader.room();
        const size_t count = std::min({room.size(), kStep, stream.size() - at});
        std::copy_n(stream.begin() + static_cast<ptrdiff_t>(at), count, room.begin());
        reader.received(count);
        at += count;
        while (const auto* frame = *reader.next()) {
            ++seen;
            ASSERT_EQ(frame->stream(), seen);
            const auto bytes = view(frame->body_as_Output()->bytes());
            ASSERT_EQ(bytes.size(), seen % 3 == 0 ? 100 : 120'000 + seen);
            ASSERT_TRUE(std::ranges::all_of(
                bytes, [&](std::byte byte) { return byte == static_cast<std::byte>(seen); }));
        }
    }
    EXPECT_EQ(seen, 12u);
}

TEST(FrameReader, TakesTheLargestFrameAndGivesItsMemoryBack) {
    FrameReader reader;
    feed(reader, output_frame(3, limits::kFrameBytesMax - 200));
    const auto frame = reader.next();
    ASSERT_TRUE(frame);
    ASSERT_NE(*frame, nullptr);
    EXPECT_EQ((*frame)->body_as_Output()->bytes()->size(), limits::kFrameBytesMax - 200);
    EXPECT_LT(reader.room().size(), 8 * limits::kFrameChunkBytes);
    feed(reader, output_frame(4, 5));
    EXPECT_EQ((*reader.next())->stream(), 4u);
}

TEST(FrameReader, RefusesLengthsOutOfBoundsBeforeTheirBytesCome) {
    for (const uint32_t length : {0u, 1u, 11u, limits::kFrameBytesMax + 1, 0xffffffffu}) {
        FrameReader reader;
        feed(reader, std::as_bytes(std::span(&length, 1)));
        const auto frame = reader.next();
        ASSERT_FALSE(frame) << length;
        EXPECT_EQ(frame.error().code, Code::corrupt);
        EXPECT_THAT(frame.error().message, testing::HasSubstr(std::to_string(length)));
    }
}

TEST(FrameReader, RefusesAnotherIdentifierAndACutFrame) {
    auto other = output_frame(1, 10);
    other[8] = std::byte{'X'};
    FrameReader reader;
    feed(reader, other);
    EXPECT_FALSE(reader.next());

    auto cut = output_frame(1, 100);
    const uint32_t shorter = static_cast<uint32_t>(cut.size() - 4 - 50);
    std::memcpy(cut.data(), &shorter, sizeof(shorter));
    FrameReader second;
    feed(second, cut);
    EXPECT_FALSE(second.next());
}

// Whatever one flipped byte does to a frame, what the reader hands out can be read.
TEST(FrameReader, HandsOutOnlyWhatCanBeRead) {
    FrameBuilder builder;
    auto& buffer = builder.buffer();
    const auto argv = buffer.CreateVectorOfStrings({"sh", "-c", "true"});
    const auto env = buffer.CreateVectorOfStrings({"A=b"});
    const auto cwd = buffer.CreateString("/tmp");
    const auto span = builder.finish(9, wire::CreateExec(buffer, argv, env, 0, false, cwd));
    const std::vector<std::byte> good(span.begin(), span.end());
    std::mt19937 random(7);
    size_t read = 0;
    for (size_t at = 4; at < good.size(); ++at) {
        for (int i = 0; i < 16; ++i) {
            auto bad = good;
            bad[at] = static_cast<std::byte>(random());
            FrameReader reader;
            feed(reader, bad);
            const auto frame = reader.next();
            if (!frame || *frame == nullptr)
                continue;
            if (const auto* exec = (*frame)->body_as_Exec()) {
                for (const auto* string : *exec->argv())
                    read += view(string).size();
                read += view(exec->cwd()).size();
            }
        }
    }
    EXPECT_GT(read, 0u);
}

TEST(AgentProtocol, AgreesOnTheHighestCommonVersion) {
    EXPECT_EQ(agent_protocol_with(kAgentProtocolMin, kAgentProtocolMax), kAgentProtocolMax);
    EXPECT_EQ(agent_protocol_with(0, 65535), kAgentProtocolMax);
    EXPECT_EQ(agent_protocol_with(kAgentProtocolMax + 1, 65535), std::nullopt);
    EXPECT_EQ(agent_protocol_with(0, kAgentProtocolMin - 1), std::nullopt);
    EXPECT_EQ(agent_protocol_with(65535, 0), std::nullopt);
}

TEST(AgentProtocol, HasTheCodesOfTheTree) {
    for (int code = 0; code <= static_cast<int>(Code::internal); ++code) {
        EXPECT_EQ(wire::EnumNameErrorCode(to_wire(Code{code})), code_name(Code{code}));
        EXPECT_EQ(from_wire(to_wire(Code{code})), Code{code});
    }
    EXPECT_EQ(from_wire(wire::ErrorCode{200}), Code::internal);
}

}  // namespace
}  // namespace spore
