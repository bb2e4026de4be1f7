// Agent and host of neighbouring versions: the real ones, one of them made older or newer than it
// is.

#include <thread>

#include "hypervisor/sandbox/agent_copy.h"
#include "tests/unit/agent/files_rig.h"

namespace spore {
namespace {

using testing::HasSubstr;

constexpr uint16_t kBefore = kAgentProtocolMax - 1;

// Stands between a client and the real agent, and has them agree on the version before.
class VersionBefore {
  public:
    explicit VersionBefore(UniqueFd agent) : agent_(std::move(agent)) {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        client_ = UniqueFd(ends[0]);
        ours_ = UniqueFd(ends[1]);
        thread_ = std::jthread([this] { pass(); });
    }
    UniqueFd take() { return std::move(client_); }

  private:
    void pass() {
        std::byte hello[256];
        // One whole frame, as the client waits for its answer.
        EXPECT_GT(::recv(ours_.get(), hello, sizeof(hello), 0), 0);
        FrameBuilder builder;
        const auto older =
            builder.finish(1, wire::CreateHello(builder.buffer(), kAgentProtocolMin, kBefore));
        ::send(agent_.get(), older.data(), older.size(), MSG_NOSIGNAL);
        std::jthread back([this] { splice(agent_.get(), ours_.get()); });
        splice(ours_.get(), agent_.get());
    }
    static void splice(int from, int to) {
        std::vector<char> bytes(1 << 16);
        ssize_t count = 0;
        while ((count = ::recv(from, bytes.data(), bytes.size(), 0)) > 0) {
            for (ssize_t sent = 0; sent < count;) {
                const ssize_t now = ::send(to, bytes.data() + sent,
                                           static_cast<size_t>(count - sent), MSG_NOSIGNAL);
                if (now <= 0)
                    return;
                sent += now;
            }
        }
        ::shutdown(to, SHUT_RDWR);
    }

    UniqueFd agent_, client_, ours_;
    std::jthread thread_;
};

class Neighbour : public FilesRig {
  protected:
    void SetUp() override {
        fs::create_directory(work);
        between.emplace(agent.connect_socket());
        auto client = AgentClient::over(between->take(), soon());
        ASSERT_TRUE(client) << client.error().message;
        EXPECT_EQ(client->info().protocol, kBefore);
        auto made = AgentConnection::over(std::move(*client));
        ASSERT_TRUE(made) << made.error().message;
        connection = std::move(*made);
        files.emplace(connection);
    }
    void TearDown() override { connection->close(); }

    std::optional<VersionBefore> between;
};

TEST_F(Neighbour, AnAgentOfTheVersionBeforeIsUsed) {
    std::string out;
    const auto done = connection->exec(
        shell("echo hello"), {.on_stdout = [&](auto b) { return collect(out, b); }}, soon());
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(out, "hello\n");
    EXPECT_TRUE(write({.path = at("file")}, "content"));
    EXPECT_EQ(got("file"), "content");
    const Status newer = files->make_hard_link(at("link"), at("file"), false, soon());
    EXPECT_EQ(code(newer), Code::host_unsupported);
    EXPECT_THAT(newer.error().message, HasSubstr("HardLink: needs protocol version 4"));
}

TEST_F(Neighbour, NamesOfOneFileAreCopiedApartIntoAnAgentOfTheVersionBeforeAndThatIsTold) {
    fs::create_directories(at("tree"));
    put("tree/one", "content");
    fs::create_hard_link(at("tree/one"), at("tree/two"));
    std::string told;
    const auto counts =
        copy_in(connection, at("tree"), at("guest"),
                {.on_separate = [&](const auto& path, const auto& why) { told = path + " " + why; },
                 .deadline = soon()});
    ASSERT_TRUE(counts) << counts.error().message;
    EXPECT_EQ(counts->files, 2u);
    EXPECT_EQ(counts->links, 0u);
    EXPECT_EQ(counts->separate, 1u);
    EXPECT_THAT(told, HasSubstr("protocol version 4"));
    EXPECT_EQ(got("guest/one") + got("guest/two"), "contentcontent");
}

TEST_F(Neighbour, ALinkIsReplacedByACopyIntoAnAgentOfTheVersionBeforeToo) {
    fs::create_directories(at("tree"));
    fs::create_directories(at("guest"));
    put("tree/file", "new");
    put("victim", "safe");
    ASSERT_EQ(::symlink(at("victim").c_str(), at("guest/file").c_str()), 0);
    const auto counts = copy_in(connection, at("tree/."), at("guest"), {.deadline = soon()});
    ASSERT_TRUE(counts) << counts.error().message;
    EXPECT_EQ(got("victim"), "safe");
    EXPECT_EQ(got("guest/file"), "new");
}

// A table with one field more than this tree has, at the end.
template <typename Fill>
flatbuffers::Offset<void> longer(flatbuffers::FlatBufferBuilder& buffer, int fields, Fill fill) {
    const auto start = buffer.StartTable();
    fill();
    buffer.AddElement<uint32_t>(
        flatbuffers::FieldIndexToOffset(static_cast<flatbuffers::voffset_t>(fields)), 77, 0);
    return buffer.EndTable(start);
}

TEST(NeighbourAfter, AHostOfTheVersionAfterIsServed) {
    RunningAgent agent;
    RawClient client(agent.connect_socket());
    client.send(1, wire::CreateHello(client.buffer(), kBefore, kAgentProtocolMax + 1));
    const auto* reply = client.next();
    ASSERT_NE(reply, nullptr);
    ASSERT_NE(reply->body_as_HelloReply(), nullptr);
    EXPECT_EQ(reply->body_as_HelloReply()->version(), kAgentProtocolMax);
    FrameBuilder builder;
    // A field that this version does not have is passed over, a request refused by itself.
    client.send_bytes(builder.finish(2, wire::Body::Ping, longer(builder.buffer(), 0, [] {})));
    builder.reset();
    client.send_bytes(builder.finish(3, wire::Body{static_cast<uint8_t>(wire::Body::MAX) + 1},
                                     longer(builder.buffer(), 0, [] {})));
    const auto* pong = client.next();
    ASSERT_NE(pong, nullptr);
    EXPECT_NE(pong->body_as_Pong(), nullptr);
    const auto* refused = client.next();
    ASSERT_NE(refused, nullptr);
    EXPECT_EQ(refused->stream(), 3u);
    ASSERT_NE(refused->body_as_Error(), nullptr);
    EXPECT_EQ(refused->body_as_Error()->code(), wire::ErrorCode::invalid_argument);
    client.send(4, wire::CreatePing(client.buffer()));
    const auto* again = client.next();
    ASSERT_NE(again, nullptr);
    EXPECT_NE(again->body_as_Pong(), nullptr);
}

TEST(NeighbourAfter, AnAgentOfTheVersionAfterIsUsed) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    std::jthread after([fd = UniqueFd(ends[1])] {
        std::byte frame[512];
        FrameBuilder builder;
        auto& buffer = builder.buffer();
        ASSERT_GT(::recv(fd.get(), frame, sizeof(frame), 0), 0);
        const auto version = buffer.CreateString("99"), boot = buffer.CreateString("boot");
        const auto reply = builder.finish(
            1, wire::Body::HelloReply, longer(buffer, 4, [&] {
                buffer.AddElement<uint16_t>(wire::HelloReply::VT_VERSION, kAgentProtocolMax, 0);
                buffer.AddOffset(wire::HelloReply::VT_AGENT_VERSION, version);
                buffer.AddOffset(wire::HelloReply::VT_BOOT_ID, boot);
            }));
        ::send(fd.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
        builder.reset();
        ASSERT_GT(::recv(fd.get(), frame, sizeof(frame), 0), 0);
        const auto pong = builder.finish(wire::GetSizePrefixedFrame(frame)->stream(),
                                         wire::Body::Pong, longer(buffer, 0, [] {}));
        ::send(fd.get(), pong.data(), pong.size(), MSG_NOSIGNAL);
    });
    auto client = AgentClient::over(UniqueFd(ends[0]), soon());
    ASSERT_TRUE(client) << client.error().message;
    EXPECT_EQ(client->info().version, "99");
    auto connection = AgentConnection::over(std::move(*client));
    ASSERT_TRUE(connection);
    EXPECT_TRUE((*connection)->ping(soon()));
}

}  // namespace
}  // namespace spore
