// What a client may do to the agent that AgentClient never does: the agent serves on.

#include <fcntl.h>
#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <random>

#include "hypervisor/base/agent_limits.h"
#include "tests/unit/agent/running_agent.h"

namespace spore {
namespace {

using testing::HasSubstr;

class Protocol : public testing::Test {
  protected:
    RunningAgent agent;
    RawClient client{agent.connect_socket()};

    // Expects the connection's error and its end.
    static void expect_end(RawClient& of, Code code, const std::string& words) {
        const auto* frame = of.next();
        ASSERT_NE(frame, nullptr);
        EXPECT_EQ(frame->stream(), 0u);
        const auto* error = frame->body_as_Error();
        ASSERT_NE(error, nullptr);
        EXPECT_EQ(from_wire(error->code()), code);
        EXPECT_THAT(error->message()->str(), HasSubstr(words));
        EXPECT_EQ(of.next(), nullptr);
    }
    void expect_serving() {
        AgentClient other = agent.client();
        const auto outcome = run(other, shell("echo fine"));
        ASSERT_TRUE(outcome) << outcome.error().message;
        EXPECT_EQ(outcome->out, "fine\n");
    }
    static size_t bytes_of(const wire::Frame* frame) {
        const auto* output = frame == nullptr ? nullptr : frame->body_as_Output();
        return output == nullptr ? 0 : output->bytes()->size();
    }
};

TEST_F(Protocol, AgentIsSmall) {
#ifdef SPORE_SANITIZED
    GTEST_SKIP() << "a sanitizer's memory is not the agent's";
#endif
    expect_serving();
    EXPECT_LE(agent.resident_kib(), 4u * 1024);
    EXPECT_LE(std::filesystem::file_size(SPORE_AGENT_PATH), 3u << 20);
}

TEST_F(Protocol, RefusesAVersionItDoesNotSpeak) {
    client.send(1, wire::CreateHello(client.buffer(), 1000, 1001));
    expect_end(client, Code::version_mismatch, "1000 to 1001");
    RawClient backwards(agent.connect_socket());
    backwards.send(1, wire::CreateHello(backwards.buffer(), 5, 1));
    expect_end(backwards, Code::version_mismatch, "5 to 1");
    RawClient newer(agent.connect_socket());
    newer.send(1, wire::CreateHello(newer.buffer(), kAgentProtocolMax, 1000));
    const auto* reply = newer.next();
    ASSERT_NE(reply, nullptr);
    ASSERT_NE(reply->body_as_HelloReply(), nullptr);
    EXPECT_EQ(reply->body_as_HelloReply()->version(), kAgentProtocolMax);
}

TEST_F(Protocol, WantsHelloFirst) {
    client.send(1, wire::CreatePing(client.buffer()));
    expect_end(client, Code::invalid_argument, "must be Hello");
}

TEST_F(Protocol, AnswersPingAndRefusesAnswersAsRequests) {
    client.greet();
    client.send(7, wire::CreatePing(client.buffer()));
    const auto* pong = client.next();
    ASSERT_NE(pong, nullptr);
    EXPECT_EQ(pong->stream(), 7u);
    EXPECT_NE(pong->body_as_Pong(), nullptr);
    client.send(8, wire::CreateDone(client.buffer()));
    const auto* refused = client.next();
    ASSERT_NE(refused, nullptr);
    EXPECT_EQ(refused->stream(), 8u);
    ASSERT_NE(refused->body_as_Error(), nullptr);
    EXPECT_EQ(refused->body_as_Error()->code(), wire::ErrorCode::invalid_argument);
}

TEST_F(Protocol, RefusesStreamZeroAndAStreamInUse) {
    client.greet();
    client.exec(2, {"sleep", "1000"}, 1000);
    ASSERT_NE(client.next()->body_as_Started(), nullptr);
    client.exec(2, {"true"}, 1000);
    expect_end(client, Code::invalid_argument, "is in use");
    RawClient zero(agent.connect_socket());
    zero.send(0, wire::CreateHello(zero.buffer(), 1, 1));
    expect_end(zero, Code::invalid_argument, "stream 0");
}

TEST_F(Protocol, TakesAStreamAgainAfterItsEnd) {
    client.greet();
    for (int i = 0; i < 3; ++i) {
        client.exec(2, {"true"}, 1000);
        ASSERT_NE(client.next()->body_as_Started(), nullptr);
        ASSERT_NE(client.next()->body_as_Exited(), nullptr);
    }
    // These may have crossed the end of the stream: passed over.
    client.send(2, wire::CreateSignal(client.buffer(), 9));
    client.send(2, wire::CreateCredit(client.buffer(), 1, 100));
    client.send(2, wire::CreateStdinData(client.buffer(), 0, true));
    client.send(3, wire::CreatePing(client.buffer()));
    EXPECT_NE(client.next()->body_as_Pong(), nullptr);
}

TEST_F(Protocol, SlowStreamHoldsUpNoOther) {
    client.greet();
    constexpr uint32_t kCredit = 1000;
    client.exec(2, {"head", "-c", "500000", "/dev/zero"}, kCredit);
    ASSERT_NE(client.next()->body_as_Started(), nullptr);
    size_t slow = 0;
    while (slow < kCredit) {
        const size_t bytes = bytes_of(client.next());
        ASSERT_GT(bytes, 0u);
        slow += bytes;
    }
    EXPECT_EQ(slow, kCredit) << "never above the credit";

    client.exec(3, {"head", "-c", "300000", "/dev/zero"}, 300'000);
    size_t fast = 0;
    while (true) {
        const auto* frame = client.next();
        ASSERT_NE(frame, nullptr);
        ASSERT_EQ(frame->stream(), 3u);
        if (frame->body_as_Exited() != nullptr)
            break;
        fast += bytes_of(frame);
    }
    EXPECT_EQ(fast, 300'000u);

    client.send(2, wire::CreateCredit(client.buffer(), 1, 1'000'000));
    while (true) {
        const auto* frame = client.next();
        ASSERT_NE(frame, nullptr);
        ASSERT_EQ(frame->stream(), 2u);
        if (frame->body_as_Exited() != nullptr)
            break;
        slow += bytes_of(frame);
    }
    EXPECT_EQ(slow, 500'000u);
}

TEST_F(Protocol, StdinOfAStreamThatDoesNotReadHoldsUpNoOther) {
    client.greet();
    client.exec(2, {"sleep", "1000"}, 1000, true);
    const auto* started = client.next()->body_as_Started();
    ASSERT_NE(started, nullptr);
    EXPECT_EQ(started->stdin_credit(), limits::kStdinCreditBytes);
    const std::vector<uint8_t> half(limits::kStdinCreditBytes / 2);
    for (int i = 0; i < 2; ++i) {
        const auto bytes = client.buffer().CreateVector(half);
        client.send(2, wire::CreateStdinData(client.buffer(), bytes, false));
    }
    client.exec(3, {"true"}, 1000);
    const auto* frame = client.next();
    // The 64 KiB that the pipe holds are granted again; nothing else comes of stream 2.
    while (frame != nullptr && frame->body_as_Credit() != nullptr)
        frame = client.next();
    ASSERT_NE(frame, nullptr);
    EXPECT_EQ(frame->stream(), 3u);
}

TEST_F(Protocol, EndsAConnectionThatSendsMoreStdinThanGranted) {
    client.greet();
    client.exec(2, {"sleep", "1000"}, 1000, true);
    ASSERT_NE(client.next()->body_as_Started(), nullptr);
    const auto bytes =
        client.buffer().CreateVector(std::vector<uint8_t>(limits::kStdinCreditBytes + 1));
    client.send(2, wire::CreateStdinData(client.buffer(), bytes, false));
    expect_end(client, Code::invalid_argument, "above the credit");
    expect_serving();
}

TEST_F(Protocol, ClientThatReadsNothingCostsLittleAndLosesNothing) {
    client.greet();
    const size_t before_kib = agent.resident_kib();
    // Ten endless writers with all the credit there is, into a socket that nobody reads.
    for (uint32_t stream = 2; stream < 12; ++stream)
        client.exec(stream, {"head", "-c", "3000000", "/dev/zero"}, UINT32_MAX);
    expect_serving();
    EXPECT_LT(agent.resident_kib(), before_kib + 8 * 1024);
    std::map<uint32_t, size_t> sizes;
    for (int ended = 0; ended < 10;) {
        const auto* frame = client.next();
        ASSERT_NE(frame, nullptr);
        sizes[frame->stream()] += bytes_of(frame);
        ended += frame->body_as_Exited() != nullptr;
    }
    for (const auto& [stream, size] : sizes)
        EXPECT_EQ(size, 3'000'000u) << stream;
}

TEST_F(Protocol, ClientThatOnlyAsksCostsLittleAndIsAnsweredInTheEnd) {
    client.greet();
    const size_t before_kib = agent.resident_kib();
    constexpr uint32_t kPings = 1'000'000;  // 40 MB of answers
    // More than all buffers on the way hold: the agent must stop reading until it is read.
    ASSERT_EQ(::fcntl(client.fd(), F_SETFL, O_NONBLOCK), 0);
    FrameBuilder builder;
    uint32_t sent = 0;
    while (sent < kPings) {
        const auto frame = builder.finish(sent + 2, wire::CreatePing(builder.buffer()));
        const ssize_t count = ::send(client.fd(), frame.data(), frame.size(), MSG_NOSIGNAL);
        if (count < 0)
            break;
        ASSERT_EQ(count, static_cast<ssize_t>(frame.size()));
        ++sent;
        builder.reset();
    }
    ASSERT_EQ(::fcntl(client.fd(), F_SETFL, 0), 0);
    expect_serving();
    EXPECT_LT(agent.resident_kib(), before_kib + 8 * 1024);
    for (uint32_t i = 0; i < sent; ++i) {
        const auto* pong = client.next();
        ASSERT_NE(pong, nullptr);
        ASSERT_EQ(pong->stream(), i + 2);
    }
}

TEST_F(Protocol, SurvivesEveryLengthField) {
    FrameBuilder builder;
    const auto good_span = builder.finish(1, wire::CreateHello(builder.buffer(), 1, 1));
    const std::vector<std::byte> good(good_span.begin(), good_span.end());
    // Every 32-bit field of the frame, its length first, with values around every bound.
    for (size_t at = 0; at + 4 <= good.size(); ++at) {
        for (const uint32_t value :
             {0u, 1u, 3u, 0x7fffffffu, 0x80000000u, 0xffffffffu, static_cast<uint32_t>(good.size()),
              limits::kFrameBytesMax, limits::kFrameBytesMax + 1}) {
            std::vector<std::byte> bad = good;
            std::memcpy(bad.data() + at, &value, sizeof(value));
            RawClient hostile(agent.connect_socket());
            hostile.send_bytes(bad);
            ASSERT_TRUE(agent.alive()) << at << " " << value;
        }
    }
    expect_serving();
}

TEST_F(Protocol, SurvivesRandomBytes) {
    std::mt19937 random(42);
    for (int round = 0; round < 300; ++round) {
        RawClient hostile(agent.connect_socket());
        if (round % 2 == 0)
            hostile.greet();
        std::vector<std::byte> noise(random() % 4000 + 4);
        for (std::byte& byte : noise)
            byte = static_cast<std::byte>(random());
        // Half of them with a length that is right, so that the verifier gets to see them.
        if (round % 4 < 2) {
            const uint32_t length = static_cast<uint32_t>(noise.size() - 4);
            std::memcpy(noise.data(), &length, 4);
        }
        hostile.send_bytes(noise);
    }
    ASSERT_TRUE(agent.alive());
    expect_serving();
}

TEST_F(Protocol, SaysWhyItClosesOnABadFrame) {
    client.greet();
    const uint32_t length = 0xffffffff;
    client.send_bytes(std::as_bytes(std::span(&length, 1)));
    expect_end(client, Code::corrupt, "4294967295");
}

TEST_F(Protocol, ManyStringsThatAreOneDoNotExhaustTheAgent) {
    client.greet();
    // 400,000 arguments that all point to one string of a megabyte: 400 GB if they were copied.
    auto& buffer = client.buffer();
    const auto large = buffer.CreateString(std::string(1 << 20, 'x'));
    const auto argv =
        buffer.CreateVector(std::vector<flatbuffers::Offset<flatbuffers::String>>(400'000, large));
    client.send(2, wire::CreateExec(buffer, argv));
    const auto* frame = client.next();
    ASSERT_NE(frame, nullptr);
    ASSERT_NE(frame->body_as_Error(), nullptr);
    EXPECT_THAT(frame->body_as_Error()->message()->str(), HasSubstr("in sum"));
    expect_serving();
}

TEST_F(Protocol, EndsConnectionsAboveTheLimitOnlyWhenOthersEnd) {
    std::vector<UniqueFd> idle;
    for (uint32_t i = 0; i < limits::kAgentConnectionsMax; ++i)
        idle.push_back(agent.connect_socket());
    RawClient late(agent.connect_socket());  // waits in the listener's queue
    late.send(1, wire::CreateHello(late.buffer(), kAgentProtocolMin, kAgentProtocolMax));
    pollfd answer = {late.fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&answer, 1, 100), 0);
    idle.clear();
    ASSERT_NE(late.next(), nullptr);
    expect_serving();
}

}  // namespace
}  // namespace spore
