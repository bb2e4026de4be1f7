// AgentClient against a peer that is no agent, or a hostile one.

#include "hypervisor/sandbox/agent_client.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <thread>

#include "schema/frame.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

AgentClient::Deadline in(std::chrono::milliseconds time) {
    return std::chrono::steady_clock::now() + time;
}

// The other end of the client's socket, in a thread of its own.
class Peer {
  public:
    explicit Peer(std::function<void(int fd)> serve) {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        client_ = UniqueFd(ends[0]);
        thread_ =
            std::jthread([fd = UniqueFd(ends[1]), serve = std::move(serve)] { serve(fd.get()); });
    }
    UniqueFd take() { return std::move(client_); }

  private:
    UniqueFd client_;
    std::jthread thread_;
};

template <typename Body>
void send(int fd, FrameBuilder& builder, uint32_t stream, flatbuffers::Offset<Body> body) {
    const auto frame = builder.finish(stream, body);
    (void)!::send(fd, frame.data(), frame.size(), MSG_NOSIGNAL);
    builder.reset();
}

void greet(int fd, uint16_t version = kAgentProtocolMax) {
    char hello[4096];
    (void)!::read(fd, hello, sizeof(hello));
    FrameBuilder builder;
    const auto agent = builder.buffer().CreateString("0.0");
    const auto boot = builder.buffer().CreateString("boot");
    send(fd, builder, 1,
         wire::CreateHelloReply(builder.buffer(), version, agent, boot, wire::State::sealed));
}

void until_closed(int fd) {
    char bytes[65536];
    while (::read(fd, bytes, sizeof(bytes)) > 0) {
    }
}

TEST(AgentClient, KnowsWhatTheAgentSaysOfItself) {
    Peer peer([](int fd) {
        greet(fd);
        until_closed(fd);
    });
    const auto client = AgentClient::over(peer.take(), in(60s));
    ASSERT_TRUE(client) << client.error().message;
    EXPECT_EQ(client->info().version, "0.0");
    EXPECT_EQ(client->info().boot_id, "boot");
    EXPECT_TRUE(client->info().sealed);
}

TEST(AgentClient, GivesUpAtTheDeadline) {
    Peer silent([](int fd) { until_closed(fd); });
    const auto client = AgentClient::over(silent.take(), in(50ms));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, Code::timeout);
}

TEST(AgentClient, RefusesAVersionThatItDidNotOffer) {
    Peer peer([](int fd) { greet(fd, kAgentProtocolMax + 1); });
    const auto client = AgentClient::over(peer.take(), in(60s));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, Code::version_mismatch);
}

TEST(AgentClient, PassesOnWhyTheAgentClosed) {
    Peer peer([](int fd) {
        char hello[4096];
        (void)!::read(fd, hello, sizeof(hello));
        FrameBuilder builder;
        const auto why = builder.buffer().CreateString("too old");
        send(fd, builder, 0,
             wire::CreateError(builder.buffer(), wire::ErrorCode::version_mismatch, why));
    });
    const auto client = AgentClient::over(peer.take(), in(60s));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, Code::version_mismatch);
    EXPECT_EQ(client.error().message, "too old");
}

TEST(AgentClient, IsBrokenAfterBytesThatAreNoFrame) {
    Peer peer([](int fd) {
        greet(fd);
        char request[4096];
        (void)!::read(fd, request, sizeof(request));
        (void)!::send(fd, "\xff\xff\xff\xff garbage", 12, MSG_NOSIGNAL);
        until_closed(fd);
    });
    auto client = AgentClient::over(peer.take(), in(60s));
    ASSERT_TRUE(client);
    const Status failed = client->ping(in(60s));
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, Code::corrupt);
    EXPECT_TRUE(client->broken());
    EXPECT_EQ(client->ping(in(60s)).error().code, Code::unavailable);
}

TEST(AgentClient, IsBrokenWhenTheAgentGoes) {
    Peer peer([](int fd) { greet(fd); });
    auto client = AgentClient::over(peer.take(), in(60s));
    ASSERT_TRUE(client);
    const auto result = client->exec({.argv = {"true"}}, {}, in(60s));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::unavailable);
    EXPECT_TRUE(client->broken());
}

TEST(AgentClient, EndlessOutputOfAHostileAgentEndsAtTheDeadline) {
    Peer peer([](int fd) {
        greet(fd);
        FrameBuilder builder;
        while (true) {
            const auto bytes = builder.buffer().CreateVector(std::vector<uint8_t>(60'000));
            const auto frame = builder.finish(2, wire::CreateOutput(builder.buffer(), 1, bytes));
            if (::send(fd, frame.data(), frame.size(), MSG_NOSIGNAL) < 0)
                return;
            builder.reset();
        }
    });
    auto client = AgentClient::over(peer.take(), in(60s));
    ASSERT_TRUE(client);
    const auto result = client->exec({.argv = {"true"}}, {}, in(300ms));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::timeout);
}

// The end of vsock at spore-vmm: a listening socket that answers CONNECT.
class FakeVsock {
  public:
    explicit FakeVsock(std::function<void(int fd, const std::string& line)> serve) {
        listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        path().native().copy(address.sun_path, sizeof(address.sun_path) - 1);
        EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
                  0);
        EXPECT_EQ(::listen(listener_.get(), 4), 0);
        thread_ = std::jthread([this, serve = std::move(serve)] {
            UniqueFd fd(::accept(listener_.get(), nullptr, nullptr));
            std::string line;
            char next = 0;
            while (!line.ends_with('\n') && ::read(fd.get(), &next, 1) == 1)
                line += next;
            serve(fd.get(), line);
        });
    }
    ~FakeVsock() { thread_.join(); }
    std::filesystem::path path() const { return directory / "vsock"; }

  private:
    const ScratchDirectory scratch{"vsock"};
    const std::filesystem::path& directory = scratch.path();
    UniqueFd listener_;
    std::jthread thread_;
};

TEST(AgentClient, AsksSporeVmmForThePort) {
    std::string asked;
    {
        FakeVsock vsock([&](int fd, const std::string& line) {
            asked = line;
            (void)!::write(fd, "OK 1073741824\n", 14);
            greet(fd);
        });
        const auto client = AgentClient::connect(vsock.path(), 1024, in(60s));
        ASSERT_TRUE(client) << client.error().message;
        EXPECT_EQ(client->host_port(), 1073741824u) << "what a snapshot is asked to carry";
    }
    EXPECT_EQ(asked, "CONNECT 1024\n");
}

TEST(AgentClient, AttachesWithTheFirstMessageAndSaysSoWhenItIsRefused) {
    std::string asked;
    AgentCarried carried{1, "0.1.0", 7};
    {
        FakeVsock vsock([&](int, const std::string& line) { asked = line; });
        auto client = AgentClient::attach(vsock.path(), 1024, carried);
        ASSERT_TRUE(client) << client.error().message;
        EXPECT_EQ(client->info().version, "0.1.0");
        EXPECT_TRUE(client->info().sealed);
        EXPECT_FALSE(client->broken());
        const Status refused = client->ping(in(60s));
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Code::unavailable);
        EXPECT_TRUE(client->broken());
    }
    EXPECT_EQ(asked, "ATTACH 1024\n");
    carried.protocol = 99;
    const auto newer = AgentClient::attach(UniqueFd(), 1024, carried);
    ASSERT_FALSE(newer);
    EXPECT_EQ(newer.error().code, Code::version_mismatch);
}

TEST(AgentClient, SaysThatNobodyListens) {
    FakeVsock vsock([](int, const std::string&) {});
    const auto refused = AgentClient::connect(vsock.path(), 1024, in(60s));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unavailable);
    EXPECT_THAT(refused.error().message, HasSubstr("nobody listens on port 1024"));
    const auto absent = AgentClient::connect("/tmp/no-such-spore-socket", 1024, in(60s));
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().code, Code::unavailable);
}

TEST(AgentClient, DoesNotWaitForAPortBeyondTheDeadline) {
    FakeVsock vsock([](int fd, const std::string&) { until_closed(fd); });
    const auto client = AgentClient::connect(vsock.path(), 1024, in(50ms));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, Code::timeout);
}

TEST(AgentClient, RefusesAnAnswerThatIsNone) {
    FakeVsock vsock([](int fd, const std::string&) {
        (void)!::write(fd, "HTTP/1.1 400 Bad Request and more\r\n", 35);
        until_closed(fd);
    });
    const auto client = AgentClient::connect(vsock.path(), 1024, in(60s));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, Code::unavailable);
}

}  // namespace
}  // namespace spore
