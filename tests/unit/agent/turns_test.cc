// Streams that work in turns, by a kind of stream that the test makes.

#include <gmock/gmock.h>
#include <sys/socket.h>

#include "agent/server.h"
#include "agent/stream.h"
#include "hypervisor/base/agent_limits.h"
#include "tests/unit/agent/running_agent.h"

namespace spore {
namespace {

// Notes each of its turns, and wants so many.
class Counting : public Stream {
  public:
    Counting(Connection& connection, Server& server, uint32_t id, size_t turns, std::string& log)
        : Stream(connection, server, id), left_(turns), log_(log) {
        want_turn();
        want_turn();  // without effect
    }
    bool turn() override {
        log_ += std::to_string(id());
        return --left_ > 0;
    }
    void frame(size_t bytes) {
        const auto data = connection_.buffer().CreateVector(std::vector<uint8_t>(bytes));
        send(wire::CreateFileData(connection_.buffer(), data));
    }

    using Stream::want_turn;

  private:
    size_t left_;
    std::string& log_;
};

class Turns : public testing::Test {
  protected:
    void SetUp() override {
        ::sigprocmask(SIG_BLOCK, nullptr, &signals_);
        int ends[2] = {-1, -1};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
        peer = UniqueFd(ends[0]);
        server = std::move(*Server::create(system));
        connection.emplace(*server, UniqueFd(ends[1]));
        ASSERT_TRUE(connection->start());
    }

    // The server blocks signals in this very process.
    void TearDown() override { ::sigprocmask(SIG_SETMASK, &signals_, nullptr); }

    sigset_t signals_ = {};
    DetachedSystem system;
    std::unique_ptr<Server> server;
    UniqueFd peer;
    std::optional<Connection> connection;
    std::string log;
};

TEST_F(Turns, GoRoundAmongAllThatWantThem) {
    Counting one(*connection, *server, 1, 4, log);
    Counting two(*connection, *server, 2, 2, log);
    auto gone = std::make_unique<Counting>(*connection, *server, 3, 9, log);
    ASSERT_TRUE(server->run_once());
    gone.reset();
    for (int i = 0; i < 3; ++i)
        ASSERT_TRUE(server->run_once());
    EXPECT_EQ(log, "1231211");
}

TEST_F(Turns, WaitWhileTheirClientDoesNotRead) {
    auto kept = std::make_unique<Counting>(*connection, *server, 1, 3, log);
    Counting& stream = *kept;
    connection->keep(std::move(kept));
    // What the socket and the backlog hold, and more.
    for (int i = 0; i < 100 && !connection->congested(); ++i)
        stream.frame(limits::kFrameChunkBytes);
    ASSERT_TRUE(connection->congested());
    ASSERT_TRUE(server->run_once());
    EXPECT_EQ(log, "") << "it would only add to what waits";
    std::vector<char> sink(1 << 20);
    while (log.empty()) {
        (void)!::read(peer.get(), sink.data(), sink.size());
        ASSERT_TRUE(server->run_once());
    }
    while (log.size() < 3)
        ASSERT_TRUE(server->run_once());
    EXPECT_EQ(log, "111");
}

}  // namespace
}  // namespace spore
