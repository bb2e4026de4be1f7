// Many requests over one connection: with the real agent, and with one that misbehaves.

#include "hypervisor/sandbox/agent_connection.h"

#include <fcntl.h>
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/exec_capture.h"
#include "tests/unit/agent/running_agent.h"

namespace spore {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

AgentClient::Deadline after(std::chrono::milliseconds time) {
    return std::chrono::steady_clock::now() + time;
}

bool ends(pid_t pid) {
    const auto deadline = soon();
    while (::kill(pid, 0) == 0) {
        if (std::chrono::steady_clock::now() > deadline)
            return false;
        std::this_thread::sleep_for(1ms);
    }
    return true;
}

class Multiplexed : public testing::Test {
  protected:
    void SetUp() override {
        auto made = AgentConnection::over(agent.client());
        ASSERT_TRUE(made) << made.error().message;
        connection = std::move(*made);
    }
    // Sends an Exec with the window as its credit.
    static AgentStream start(AgentConnection& on, const std::string& script, size_t window) {
        AgentStream stream = on.open(window);
        auto& buffer = stream.buffer();
        const auto argv = buffer.CreateVectorOfStrings({"sh", "-c", script});
        const auto credit = static_cast<uint32_t>(window);
        EXPECT_TRUE(stream.send(
            wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, true, 0, credit, credit)));
        return stream;
    }

    RunningAgent agent;
    std::shared_ptr<AgentConnection> connection;
};

TEST_F(Multiplexed, ServesManyThreadsAtOnce) {
    constexpr int kThreads = 32;
    std::vector<std::jthread> threads;
    std::atomic<int> good = 0;
    for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i] {
            for (int round = 0; round < 3; ++round) {
                const std::string word = std::to_string(i * 10 + round);
                ExecCapture capture;
                const auto result = connection->exec(
                    shell("head -c 300000 /dev/zero; echo " + word + " >&2; exit 3"),
                    capture.streams(), soon());
                ASSERT_TRUE(result) << result.error().message;
                good += result->exit_status == 3 && capture.out().bytes.size() == 300'000 &&
                        capture.err().bytes == word + "\n";
            }
        });
    }
    threads.clear();
    EXPECT_EQ(good, kThreads * 3);
}

TEST_F(Multiplexed, FeedsStdinWhileAnotherThreadWaitsLonger) {
    std::atomic<bool> started = false;
    AgentStream long_one = start(*connection, "sleep 1000", 1000);
    std::jthread leader([&] {
        while (true) {  // the one who polls, until it is cancelled
            const auto frame = long_one.receive(soon());
            if (!frame)
                return;
            started = true;
        }
    });
    while (!started)
        std::this_thread::sleep_for(1ms);
    int pipe[2] = {-1, -1};
    ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
    UniqueFd from(pipe[0]), to(pipe[1]);
    std::string out;
    std::jthread follower([&] {
        const auto result = connection->exec(
            {.argv = {"cat"}},
            {.on_stdout = [&](auto bytes) { return collect(out, bytes); }, .stdin_fd = from.get()},
            soon());
        EXPECT_TRUE(result && result->exit_status == 0);
    });
    std::string sent;
    for (int i = 0; i < 100; ++i) {
        const std::string line = "line " + std::to_string(i) + "\n";
        ASSERT_EQ(::write(to.get(), line.data(), line.size()), static_cast<ssize_t>(line.size()));
        sent += line;
    }
    to.reset();
    follower.join();
    EXPECT_EQ(out, sent);
    long_one.cancel();
}

TEST_F(Multiplexed, StreamThatNobodyReadsHoldsUpNoOther) {
    AgentStream idle = start(*connection, "yes", limits::kFileCreditBytes);
    for (int i = 0; i < 20; ++i) {
        ExecCapture capture;
        const auto result =
            connection->exec(shell("head -c 500000 /dev/zero"), capture.streams(), soon());
        ASSERT_TRUE(result) << result.error().message;
        ASSERT_EQ(capture.out().total, 500'000u);
    }
    // What it granted is there, to the byte, and more comes as it is used.
    size_t bytes = 0;
    while (bytes < 3 * limits::kFileCreditBytes) {
        const auto frame = idle.receive(soon());
        ASSERT_TRUE(frame) << frame.error().message;
        ASSERT_NE(*frame, nullptr);
        if (const auto* output = (*frame)->body_as_Output()) {
            bytes += output->bytes()->size();
            ASSERT_TRUE(idle.consumed(1, output->bytes()->size()));
        }
    }
}

TEST_F(Multiplexed, DeadlineEndsThatRequestAlone) {
    pid_t pid = 0;
    const auto late =
        connection->exec({.argv = {"sleep", "1000"}},
                         {.on_started = [&](int started) { pid = started; }}, after(500ms));
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, Code::timeout);
    ASSERT_GT(pid, 0);
    EXPECT_TRUE(ends(pid)) << "cancelled in the guest too";
    EXPECT_FALSE(connection->broken());
    EXPECT_TRUE(connection->ping(soon()));
}

TEST_F(Multiplexed, CancelsFromAnotherThread) {
    AgentStream stream = start(*connection, "echo $$; sleep 1000", 1000);
    pid_t pid = 0;
    std::atomic<bool> reading = false;
    std::jthread canceller([&] {
        while (!reading)
            std::this_thread::sleep_for(1ms);
        stream.cancel();
    });
    while (true) {
        const auto frame = stream.receive(soon());
        if (!frame) {
            EXPECT_EQ(frame.error().code, Code::unavailable);
            EXPECT_THAT(frame.error().message, HasSubstr("cancelled"));
            break;
        }
        if (const auto* started = (*frame)->body_as_Started())
            pid = started->pid();
        reading = true;
    }
    canceller.join();
    {
        AgentStream ended = std::move(stream);
    }
    ASSERT_GT(pid, 0);
    EXPECT_TRUE(ends(pid));
    EXPECT_TRUE(connection->ping(soon()));
}

TEST_F(Multiplexed, EndOfTheAgentIsToldToAll) {
    constexpr int kThreads = 8;
    std::atomic<int> started = 0, told = 0;
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
            const auto result = connection->exec({.argv = {"sleep", "1000"}},
                                                 {.on_started = [&](int) { ++started; }}, soon());
            told += !result && result.error().code == Code::unavailable;
        });
    }
    while (started < kThreads)
        std::this_thread::sleep_for(1ms);
    ::kill(agent.pid(), SIGTERM);
    threads.clear();
    EXPECT_EQ(told, kThreads);
    EXPECT_TRUE(connection->broken());
    EXPECT_EQ(connection->ping(soon()).error().code, Code::unavailable);
}

TEST_F(Multiplexed, ClosedHereItIsToldToAllToo) {
    AgentStream stream = start(*connection, "sleep 1000", 1000);
    ASSERT_TRUE(stream.receive(soon()));
    std::jthread closer([&] { connection.reset(); });
    const auto frame = stream.receive(soon());
    ASSERT_FALSE(frame);
    EXPECT_EQ(frame.error().code, Code::unavailable);
}

TEST_F(Multiplexed, EnvironmentIsSetForWhoComesLater) {
    ASSERT_TRUE(connection->set_environment({{"A", "a=b"}, {"B", "x"}}, {"B"}, soon()));
    ExecCapture capture;
    ASSERT_TRUE(connection->exec(shell("echo $A ${B-unset}"), capture.streams(), soon()));
    EXPECT_EQ(capture.out().bytes, "a=b unset\n");
    EXPECT_EQ(connection->set_environment({{"A=", "b"}}, {}, soon()).error().code,
              Code::invalid_argument);
}

TEST_F(Multiplexed, CaptureIsBoundedAndSaysSo) {
    ExecCapture capture(1000);
    ASSERT_TRUE(connection->exec(shell("head -c 5000 /dev/zero; echo whole >&2"), capture.streams(),
                                 soon()));
    EXPECT_EQ(capture.out().bytes.size(), 1000u);
    EXPECT_EQ(capture.out().total, 5000u);
    EXPECT_TRUE(capture.out().truncated());
    EXPECT_EQ(capture.err().bytes, "whole\n");
    EXPECT_FALSE(capture.err().truncated());
}

// An agent that sends on stream 2 without end, whatever it was granted.
TEST(AgentConnection, EndsWithAnAgentThatSendsMoreThanGranted) {
    RunningAgent hostile([](const std::string& path) {
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof(address.sun_path) - 1);
        const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
        ::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address));
        ::listen(listener, 1);
        const int fd = ::accept(listener, nullptr, nullptr);
        FrameBuilder builder;
        const auto version = builder.buffer().CreateString("0");
        const auto boot = builder.buffer().CreateString("0");
        auto frame = builder.finish(
            1, wire::CreateHelloReply(builder.buffer(), kAgentProtocolMax, version, boot));
        (void)!::send(fd, frame.data(), frame.size(), MSG_NOSIGNAL);
        builder.reset();
        const auto bytes = builder.buffer().CreateVector(std::vector<uint8_t>(1));
        frame = builder.finish(2, wire::CreateOutput(builder.buffer(), 1, bytes));
        while (::send(fd, frame.data(), frame.size(), MSG_NOSIGNAL) > 0) {
        }
    });
    auto connection = AgentConnection::over(hostile.client());
    ASSERT_TRUE(connection);
    AgentStream flooded = (*connection)->open(1000);
    ASSERT_TRUE(flooded.send(wire::CreatePing(flooded.buffer())));
    // Nobody takes what comes for it; another waits.
    const Status other = (*connection)->ping(soon());
    ASSERT_FALSE(other);
    EXPECT_EQ(other.error().code, Code::corrupt);
    EXPECT_THAT(other.error().message, HasSubstr("granted less"));
}

// The agent's end of a connection is the test's, and reads when the test does.
class SlowAgent : public testing::Test {
  protected:
    void SetUp() override {
        int ends[2] = {-1, -1};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        agent = UniqueFd(ends[0]);
        const auto version = builder.buffer().CreateString("0");
        const auto boot = builder.buffer().CreateString("0");
        send(1, wire::CreateHelloReply(builder.buffer(), kAgentProtocolMax, version, boot));
        auto client = AgentClient::over(UniqueFd(ends[1]), soon());
        ASSERT_TRUE(client) << client.error().message;
        auto made = AgentConnection::over(std::move(*client));
        ASSERT_TRUE(made) << made.error().message;
        connection = std::move(*made);
        ASSERT_NE(next(), nullptr);  // Hello
    }
    template <typename Body>
    void send(uint32_t stream, flatbuffers::Offset<Body> body) {
        const auto frame = builder.finish(stream, body);
        ASSERT_EQ(::send(agent.get(), frame.data(), frame.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(frame.size()));
        builder.reset();
    }
    const wire::Frame* next() {
        while (true) {
            const auto frame = reader.next();
            EXPECT_TRUE(frame) << frame.error().message;
            if (!frame || *frame != nullptr)
                return frame ? *frame : nullptr;
            const auto room = reader.room();
            const ssize_t count = ::recv(agent.get(), room.data(), room.size(), 0);
            EXPECT_GT(count, 0);
            if (count <= 0)
                return nullptr;
            reader.received(static_cast<size_t>(count));
        }
    }
    // Sends large frames on `stream` until it fails; how many went, and why no more.
    static std::pair<uint8_t, Error> fill(AgentStream& stream) {
        for (uint8_t sent = 0;; ++sent) {
            const auto bytes = stream.buffer().CreateVector(std::vector<uint8_t>(kBytes, sent));
            Status last = stream.send(wire::CreateFileData(stream.buffer(), bytes));
            if (!last)
                return {sent, last.error()};
        }
    }
    // All of them, whole, then what was sent after them; it is answered.
    void expect_frames_and_ping(uint8_t count, AgentStream other) {
        std::jthread waiting([&] { EXPECT_TRUE(other.receive(soon())); });
        for (uint8_t number = 0; number < count; ++number) {
            const auto* frame = next();
            ASSERT_NE(frame, nullptr);
            ASSERT_NE(frame->body_as_FileData(), nullptr) << static_cast<int>(number);
            const auto& bytes = *frame->body_as_FileData()->bytes();
            ASSERT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.end()),
                      std::vector<uint8_t>(kBytes, number));
        }
        for (const auto body : {wire::Body::Cancel, wire::Body::Ping}) {
            const auto* frame = next();
            ASSERT_NE(frame, nullptr);
            ASSERT_EQ(frame->body_type(), body);
            if (body == wire::Body::Ping)
                send(frame->stream(), wire::CreatePong(builder.buffer()));
        }
    }

    static constexpr size_t kBytes = 200'000;  // no socket takes so many of them

    UniqueFd agent;
    FrameReader reader;
    FrameBuilder builder;
    std::shared_ptr<AgentConnection> connection;
};

TEST_F(SlowAgent, GetsTheRestOfAFrameWhoseSenderCouldWaitNoLonger) {
    std::optional<AgentStream> stream(connection->open());
    stream->set_deadline(after(50ms));
    const auto [sent, why] = fill(*stream);
    EXPECT_EQ(why.code, Code::timeout);
    stream.reset();
    AgentStream other = connection->open();
    ASSERT_TRUE(other.send(wire::CreatePing(other.buffer())));
    // The last one was on its way already.
    expect_frames_and_ping(static_cast<uint8_t>(sent + 1), std::move(other));
}

TEST_F(SlowAgent, GetsTheRestOfAFrameWhoseSenderWasCancelled) {
    std::optional<AgentStream> stream(connection->open());
    stream->set_deadline(soon());
    std::jthread canceller([&] {
        // Whenever it comes: what the socket has of a frame is followed by its rest.
        std::this_thread::sleep_for(20ms);
        stream->cancel();
    });
    const auto [sent, why] = fill(*stream);
    EXPECT_EQ(why.code, Code::unavailable);
    canceller.join();
    stream.reset();
    AgentStream other = connection->open();
    ASSERT_TRUE(other.send(wire::CreatePing(other.buffer())));
    expect_frames_and_ping(sent, std::move(other));
}

}  // namespace
}  // namespace spore
