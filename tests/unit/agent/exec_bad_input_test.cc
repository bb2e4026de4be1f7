// Commands, terminals and sessions of clients that go wrong, in the real agent.

#include <gmock/gmock.h>

#include <cstring>
#include <thread>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_sessions.h"
#include "tests/unit/agent/exec_fixture.h"

namespace spore {
namespace {

using testing::HasSubstr;

class ExecBadInput : public ExecFixture {
  protected:
    // Every request that is about a command, as a client may have been about to send it.
    static std::vector<std::vector<std::byte>> requests() {
        std::vector<std::vector<std::byte>> frames;
        FrameBuilder builder;
        auto& buffer = builder.buffer();
        const auto add = [&](uint32_t stream, auto body) {
            const auto frame = builder.finish(stream, body);
            frames.emplace_back(frame.begin(), frame.end());
            builder.reset();
        };
        const auto words = [&](std::vector<std::string> all) {
            return buffer.CreateVectorOfStrings(all);
        };
        auto argv = words({"sh", "-c", "sleep 1000 & cat"});
        add(2, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, true, 0, 1 << 16, 1 << 16));
        argv = words({"sh", "-c", "set -m; sleep 1000 & cat"});
        const auto pty = wire::CreatePty(buffer, 24, 80);
        add(3, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, true, 0, 1 << 16, 0, pty));
        auto name = buffer.CreateString("kept");
        add(4, wire::CreateSessionCreate(buffer, name));
        argv = words({"sleep 1000"});
        name = buffer.CreateString("kept");
        add(5, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, true, 0, 9, 9, 0, name));
        argv = words({"echo waits"});
        name = buffer.CreateString("kept");
        add(6, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 9, 9, 0, name));
        add(7, wire::CreateSessionList(buffer));
        add(2, wire::CreateStdinData(buffer, buffer.CreateVector(std::vector<uint8_t>(50'000, 7))));
        add(2, wire::CreateCredit(buffer, 1, 100));
        add(2, wire::CreateSignal(buffer, SIGUSR1));
        add(3, wire::CreateWindowSize(buffer, 10, 10));
        add(6, wire::CreateCancel(buffer));
        add(8, wire::CreateSetEnvironment(buffer, words({"A=1"})));
        name = buffer.CreateString("kept");
        add(9, wire::CreateSessionDelete(buffer, name));
        return frames;
    }
    size_t open_descriptors() const {
        return static_cast<size_t>(std::distance(
            std::filesystem::directory_iterator("/proc/" + std::to_string(agent.pid()) + "/fd"),
            {}));
    }
    // Until what a client that has gone left in the agent is gone too.
    bool comes_down_to(size_t descriptors) const {
        const auto deadline = soon();
        while (open_descriptors() > descriptors) {
            if (std::chrono::steady_clock::now() > deadline)
                return false;
            ::usleep(2000);
        }
        return true;
    }
};

TEST_F(ExecBadInput, ClientsThatGoInTheMiddleOfEveryRequestLeaveNothing) {
    ok(shell("true"));
    const size_t before = open_descriptors();
    const auto frames = requests();
    for (size_t whole = 0; whole < frames.size(); ++whole) {
        // All of the frames before it, and of this one some: nothing, a part, all.
        for (const size_t part : {size_t{2}, frames[whole].size() / 2, frames[whole].size()}) {
            RawClient vanishing(agent.connect_socket());
            vanishing.greet();
            for (size_t i = 0; i < whole; ++i)
                ASSERT_TRUE(vanishing.send_bytes(frames[i]));
            ASSERT_TRUE(vanishing.send_bytes(std::span(frames[whole]).first(part)));
        }
    }
    ASSERT_TRUE(agent.alive());
    auto link = std::move(*AgentConnection::over(agent.client()));
    (void)delete_session(*link, "kept", soon());
    link.reset();
    EXPECT_TRUE(comes_down_to(before)) << open_descriptors() << " descriptors, were " << before;
    EXPECT_EQ(ok(shell("echo next")).out, "next\n");
}

TEST_F(ExecBadInput, EveryLengthFieldOfEveryRequestMayBeWrong) {
    for (const auto& good : requests()) {
        // Of the large one its head is enough: behind it there are bytes alone.
        for (size_t at = 0; at + 4 <= std::min<size_t>(good.size(), 300); at += 4) {
            for (const uint32_t value : {0u, 5u, 0x7fffffffu, 0xffffffffu}) {
                std::vector<std::byte> bad = good;
                std::memcpy(bad.data() + at, &value, sizeof(value));
                RawClient hostile(agent.connect_socket());
                hostile.greet();
                hostile.send_bytes(bad);
                ASSERT_TRUE(agent.alive()) << at << " " << value;
            }
        }
    }
    EXPECT_EQ(ok(shell("echo next")).out, "next\n");
}

TEST_F(ExecBadInput, AHundredAtOnceInOneSandbox) {
    const std::string go = agent.directory() + "/go";
    auto link = std::move(*AgentConnection::over(agent.client()));
    std::atomic<int> running = 0, good = 0;
    std::vector<std::jthread> threads;
    for (int i = 0; i < 100; ++i) {
        threads.emplace_back([&, i] {
            std::string out;
            ExecStreams streams;
            streams.on_started = [&](int) { ++running; };
            streams.on_stdout = [&](auto bytes) { return collect(out, bytes); };
            const std::string number = std::to_string(i);
            const auto result =
                link->exec(shell("while [ ! -e " + go + " ]; do sleep 0.2; done; echo " + number +
                                 "; exit " + number),
                           streams, soon());
            if (result && result->exit_status == i && out == number + "\n")
                ++good;
        });
    }
    const auto deadline = soon();
    while (running < 100 && std::chrono::steady_clock::now() < deadline)
        ::usleep(2000);
    EXPECT_EQ(running, 100);
    write_file(go, "");
    threads.clear();
    EXPECT_EQ(good, 100);
}

TEST_F(ExecBadInput, MoreCommandsThanTheAgentTakesAreRefusedByNumber) {
    RawClient raw(agent.connect_socket());
    raw.greet();
    for (uint32_t i = 0; i <= limits::kAgentCommandsMax; ++i)
        raw.exec(2 + i, {"sleep", "1000"}, 0);
    uint32_t started = 0;
    while (true) {
        const auto* frame = raw.next();
        ASSERT_NE(frame, nullptr);
        if (frame->body_as_Started() != nullptr) {
            ++started;
            continue;
        }
        ASSERT_NE(frame->body_as_Error(), nullptr);
        EXPECT_EQ(frame->body_as_Error()->code(), wire::ErrorCode::resource_exhausted);
        EXPECT_EQ(frame->body_as_Error()->message()->str(),
                  "commands at once: at most " + std::to_string(limits::kAgentCommandsMax));
        break;
    }
    EXPECT_EQ(started, limits::kAgentCommandsMax);
}

TEST_F(ExecBadInput, MoreStreamsThanAConnectionHasAreRefusedByNumber) {
    RawClient raw(agent.connect_socket());
    raw.greet();
    raw.send(2, wire::CreateSessionCreate(raw.buffer(), raw.buffer().CreateString("busy")));
    ASSERT_NE(raw.next()->body_as_Done(), nullptr);
    for (uint32_t i = 0; i <= limits::kAgentStreamsMax; ++i) {
        auto& buffer = raw.buffer();
        const auto argv = buffer.CreateVectorOfStrings({"sleep 1000"});
        const auto name = buffer.CreateString("busy");
        raw.send(3 + i, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 1, 1, 0, name));
    }
    const auto* frame = raw.next();
    while (frame != nullptr && frame->body_as_Started() != nullptr)
        frame = raw.next();
    ASSERT_NE(frame, nullptr);
    ASSERT_NE(frame->body_as_Error(), nullptr);
    EXPECT_EQ(frame->stream(), 3 + limits::kAgentStreamsMax);
    EXPECT_EQ(frame->body_as_Error()->code(), wire::ErrorCode::resource_exhausted);
    EXPECT_THAT(frame->body_as_Error()->message()->str(),
                HasSubstr(std::to_string(limits::kAgentStreamsMax) + " streams"));
}

TEST_F(ExecBadInput, SessionsAndTheirWaitingLinesAreBoundedByNumber) {
    auto link = std::move(*AgentConnection::over(agent.client()));
    for (uint32_t i = 0; i < limits::kAgentSessionsMax; ++i)
        ASSERT_TRUE(create_session(*link, {.name = "s" + std::to_string(i)}, soon()));
    const Status above = create_session(*link, {.name = "above"}, soon());
    ASSERT_FALSE(above);
    EXPECT_EQ(above.error().code, Code::resource_exhausted);
    EXPECT_EQ(above.error().message, "sessions: at most 64");

    RawClient raw(agent.connect_socket());
    raw.greet();
    const std::string line = ": " + std::string(100'000, 'x');
    const auto send_line = [&](uint32_t stream, const std::string& text) {
        auto& buffer = raw.buffer();
        const auto argv = buffer.CreateVectorOfStrings({text});
        const auto name = buffer.CreateString("s0");
        raw.send(stream,
                 wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 1, 1, 0, name));
    };
    send_line(2, "sleep 1000");
    ASSERT_NE(raw.next()->body_as_Started(), nullptr);
    for (uint32_t i = 0; i < 11; ++i)
        send_line(3 + i, line);
    const auto* frame = raw.next();
    ASSERT_NE(frame, nullptr);
    ASSERT_NE(frame->body_as_Error(), nullptr);
    EXPECT_EQ(frame->body_as_Error()->code(), wire::ErrorCode::resource_exhausted);
    EXPECT_THAT(frame->body_as_Error()->message()->str(),
                HasSubstr("at most " + std::to_string(limits::kSessionWaitingBytesMax)));
}

TEST_F(ExecBadInput, StaysSmallWithSessionsAndTerminals) {
#ifdef SPORE_SANITIZED
    GTEST_SKIP() << "a sanitizer's shadow memory counts too";
#endif
    auto link = std::move(*AgentConnection::over(agent.client()));
    for (const char* name : {"a", "b", "c", "d"})
        ASSERT_TRUE(create_session(*link, {.name = name}, soon()));
    for (int i = 0; i < 50; ++i) {
        ExecRequest line = {.argv = {"head -c 200000 /dev/zero"}, .session = "a"};
        ASSERT_TRUE(link->exec(line, {}, soon()));
        ExecRequest terminal = shell("head -c 200000 /dev/zero");
        terminal.pty.emplace();
        ASSERT_TRUE(link->exec(terminal, {}, soon()));
    }
    const size_t kib = agent.resident_kib();
    EXPECT_GT(kib, 0u);
    EXPECT_LE(kib, 4096u);
    RecordProperty("agent_rss_kib", std::to_string(kib));
    EXPECT_LE(std::filesystem::file_size(SPORE_AGENT_PATH), 3'000'000u);
}

}  // namespace
}  // namespace spore
