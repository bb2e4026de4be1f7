// Protocol version 2 as it was: what its frames say to this tree's code, and that they work with an
// agent and a client of today.

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "hypervisor/sandbox/agent_connection.h"
#include "tests/unit/agent/running_agent.h"
#include "tests/unit/schema/golden_agent_v2.h"

namespace spore {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes_of(std::span<const uint8_t> frame) {
    return std::as_bytes(frame);
}

const wire::Frame* read_into(FrameReader& reader, std::span<const uint8_t> bytes) {
    const auto room = reader.room();
    EXPECT_GE(room.size(), bytes.size());
    std::ranges::copy(bytes_of(bytes), room.begin());
    reader.received(bytes.size());
    const auto frame = reader.next();
    EXPECT_TRUE(frame && *frame != nullptr);
    return frame ? *frame : nullptr;
}

TEST(GoldenAgentV2, SaysWhatItSaidThen) {
    FrameReader reader;
    const auto* exec = read_into(reader, golden_v2::kExec)->body_as_Exec();
    ASSERT_NE(exec, nullptr);
    EXPECT_EQ(exec->argv()->size(), 3u);
    EXPECT_EQ(exec->env()->Get(1)->str(), "B=two");
    EXPECT_EQ(exec->env_unset()->Get(0)->str(), "B");
    EXPECT_TRUE(exec->env_clear());
    EXPECT_TRUE(exec->with_stdin());
    EXPECT_EQ(exec->timeout_ms(), 60'000u);
    EXPECT_EQ(exec->stderr_credit(), 65'536u);
    EXPECT_EQ(exec->pty(), nullptr);
    EXPECT_EQ(exec->session(), nullptr);
    const auto* identity = read_into(reader, golden_v2::kIdentity)->body_as_Identity();
    ASSERT_NE(identity, nullptr);
    EXPECT_EQ(identity->hostname()->str(), "clone-9");
    EXPECT_EQ(identity->wall_clock_ns(), 1'795'700'000'000'000'000u);
    EXPECT_EQ(identity->network()->gateway()->str(), "10.0.0.1");
    EXPECT_EQ(identity->env()->Get(0)->str(), "X=y");
    EXPECT_NE(read_into(reader, golden_v2::kPrepareSnapshot)->body_as_PrepareSnapshot(), nullptr);
    EXPECT_NE(read_into(reader, golden_v2::kGrowRoot)->body_as_GrowRoot(), nullptr);
    EXPECT_NE(read_into(reader, golden_v2::kPowerOff)->body_as_PowerOff(), nullptr);
    const auto* clock = read_into(reader, golden_v2::kSetClock)->body_as_SetClock();
    ASSERT_NE(clock, nullptr);
    EXPECT_EQ(clock->wall_clock_ns(), 1'795'700'000'000'000'001u);
    const auto* exited = read_into(reader, golden_v2::kExited)->body_as_Exited();
    ASSERT_NE(exited, nullptr);
    EXPECT_EQ(exited->exit_status(), 7);
    EXPECT_TRUE(exited->timed_out());
    EXPECT_EQ(exited->cpu_us(), 1234u);
    EXPECT_EQ(exited->peak_memory_bytes(), 5'678'901u);
    EXPECT_FALSE(exited->oom_killed());
    EXPECT_NE(read_into(reader, golden_v2::kDone)->body_as_Done(), nullptr);
}

// A client of then: its very bytes, to the agent of today.
TEST(GoldenAgentV2, ItsClientIsServed) {
    RunningAgent agent;
    RawClient client(agent.connect_socket());
    ASSERT_TRUE(client.send_bytes(bytes_of(golden_v2::kHello)));
    const auto* hello = client.next();
    ASSERT_NE(hello, nullptr);
    ASSERT_NE(hello->body_as_HelloReply(), nullptr);
    EXPECT_EQ(hello->body_as_HelloReply()->version(), 2);
    client.send_bytes(bytes_of(golden_v2::kPing));
    ASSERT_NE(client.next()->body_as_Pong(), nullptr);

    client.send_bytes(bytes_of(golden_v2::kExec));
    client.send_bytes(bytes_of(golden_v2::kCreditFrame));
    ASSERT_NE(client.next()->body_as_Started(), nullptr);
    client.send_bytes(bytes_of(golden_v2::kStdinData));
    std::string out[2];
    const wire::Frame* frame = client.next();
    for (; frame != nullptr && frame->body_as_Output() != nullptr; frame = client.next()) {
        const auto bytes = view(frame->body_as_Output()->bytes());
        out[frame->body_as_Output()->fd() - 1].append(reinterpret_cast<const char*>(bytes.data()),
                                                      bytes.size());
    }
    ASSERT_NE(frame, nullptr);
    ASSERT_NE(frame->body_as_Exited(), nullptr);
    EXPECT_EQ(frame->stream(), 3u);
    EXPECT_EQ(frame->body_as_Exited()->exit_status(), 7);
    EXPECT_EQ(out[0], std::string("hello\0\xff", 7));
    EXPECT_EQ(out[1], "one\n");
    client.send_bytes(bytes_of(golden_v2::kSignalFrame));  // crossed the end of the stream

    // This agent is no PID 1: it says so to each, as it did then.
    for (const auto request : {std::span<const uint8_t>(golden_v2::kIdentity),
                               std::span<const uint8_t>(golden_v2::kPowerOff)}) {
        client.send_bytes(bytes_of(request));
        const auto* refused = client.next();
        ASSERT_NE(refused, nullptr);
        ASSERT_NE(refused->body_as_Error(), nullptr);
        EXPECT_THAT(refused->body_as_Error()->message()->str(), HasSubstr("not PID 1"));
    }
}

TEST(GoldenAgentV2, ItsClientIsToldNothingNewer) {
    RunningAgent agent;
    RawClient client(agent.connect_socket());
    client.send_bytes(bytes_of(golden_v2::kHello));
    ASSERT_NE(client.next(), nullptr);
    client.send(9, wire::CreateSetEnvironment(client.buffer()));
    const auto* refused = client.next();
    ASSERT_NE(refused, nullptr);
    ASSERT_NE(refused->body_as_Error(), nullptr);
    EXPECT_EQ(refused->body_as_Error()->code(), wire::ErrorCode::invalid_argument);
    EXPECT_THAT(refused->body_as_Error()->message()->str(), HasSubstr("is not known"));
}

// An agent of then: it answers Hello and the first command by its very bytes, and keeps what it
// gets.
class AgentOfTwo {
  public:
    AgentOfTwo() {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        client_ = UniqueFd(ends[0]);
        thread_ = std::jthread([this, fd = UniqueFd(ends[1])] { serve(fd.get()); });
    }
    UniqueFd take() { return std::move(client_); }
    // What it was sent, when the client has closed.
    std::vector<wire::Body> received() {
        thread_.join();
        return received_;
    }

  private:
    static void answer(int fd, std::span<const uint8_t> frame) {
        EXPECT_EQ(::send(fd, frame.data(), frame.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(frame.size()));
    }
    void serve(int fd) {
        FrameReader reader;
        while (true) {
            const auto frame = reader.next();
            ASSERT_TRUE(frame) << frame.error().message;
            if (*frame != nullptr) {
                received_.push_back((*frame)->body_type());
                if ((*frame)->body_as_Hello() != nullptr)
                    answer(fd, golden_v2::kHelloReply);
                if ((*frame)->body_as_Exec() != nullptr) {
                    answer(fd, golden_v2::kStarted);
                    answer(fd, golden_v2::kOutput);
                    answer(fd, golden_v2::kStdinClosed);
                    if (exits)
                        answer(fd, golden_v2::kExited);
                }
                continue;
            }
            const auto room = reader.room();
            const ssize_t count = ::recv(fd, room.data(), room.size(), 0);
            if (count <= 0)
                return;
            reader.received(static_cast<size_t>(count));
        }
    }

  public:
    std::atomic<bool> exits = true;

  private:
    UniqueFd client_;
    std::vector<wire::Body> received_;
    std::jthread thread_;
};

TEST(GoldenAgentV2, ItsAgentIsUsed) {
    AgentOfTwo agent;
    {
        auto client = AgentClient::over(agent.take(), soon());
        ASSERT_TRUE(client) << client.error().message;
        EXPECT_EQ(client->info().protocol, 2);
        EXPECT_EQ(client->info().boot_id, "boot-of-two");
        auto connection = AgentConnection::over(std::move(*client));
        ASSERT_TRUE(connection);
        std::string out;
        const auto result =
            (*connection)
                ->exec({.argv = {"x"}}, {.on_stdout = [&](auto b) { return collect(out, b); }},
                       soon());
        ASSERT_TRUE(result) << result.error().message;
        EXPECT_EQ(result->exit_status, 124) << "timed out";
        EXPECT_EQ(out, std::string("out\0\xfe", 5));
        // Nothing that it does not know is sent to it.
        const Status newer = (*connection)->set_environment({{"A", "b"}}, {}, soon());
        ASSERT_FALSE(newer);
        EXPECT_EQ(newer.error().code, Code::host_unsupported);
        EXPECT_THAT(newer.error().message, HasSubstr("SetEnvironment: needs protocol version 3"));
    }
    EXPECT_THAT(agent.received(), testing::ElementsAre(wire::Body::Hello, wire::Body::Exec));
}

TEST(GoldenAgentV2, ItsCommandIsCancelledByWhatItKnows) {
    AgentOfTwo agent;
    agent.exits = false;
    {
        auto connection = AgentConnection::over(*AgentClient::over(agent.take(), soon()));
        ASSERT_TRUE(connection);
        const auto late =
            (*connection)
                ->exec({.argv = {"x"}}, {},
                       std::chrono::steady_clock::now() + std::chrono::milliseconds(50));
        ASSERT_FALSE(late);
        EXPECT_EQ(late.error().code, Code::timeout);
        EXPECT_FALSE((*connection)->broken());
    }
    EXPECT_THAT(agent.received(),
                testing::ElementsAre(wire::Body::Hello, wire::Body::Exec, wire::Body::Signal,
                                     wire::Body::Credit, wire::Body::Credit));
}

}  // namespace
}  // namespace spore
