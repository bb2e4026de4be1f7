// Requests of version 3, streams and their ends, as a client sees them on the wire.

#include <gmock/gmock.h>

#include "tests/unit/agent/running_agent.h"

namespace spore {
namespace {

using testing::HasSubstr;

class AgentRequest : public testing::Test {
  protected:
    void SetUp() override { client.greet(); }

    // The error that ends the stream.
    const wire::Error* expect_error(uint32_t stream, wire::ErrorCode code) {
        const auto* frame = client.next();
        if (frame == nullptr || frame->body_as_Error() == nullptr) {
            ADD_FAILURE() << "no error";
            return nullptr;
        }
        EXPECT_EQ(frame->stream(), stream);
        EXPECT_EQ(frame->body_as_Error()->code(), code) << frame->body_as_Error()->message()->str();
        return frame->body_as_Error();
    }
    const wire::Exited* exited(uint32_t stream) {
        while (true) {
            const auto* frame = client.next();
            if (frame == nullptr)
                return nullptr;
            if (frame->stream() == stream && frame->body_as_Exited() != nullptr)
                return frame->body_as_Exited();
        }
    }

    RunningAgent agent;
    RawClient client{agent.connect_socket()};
};

TEST_F(AgentRequest, CancelKillsACommandAndItsEndIsTheLastFrame) {
    // More output than its credit: its end must not wait for that to be taken.
    client.exec(2, {"sh", "-c", "yes & exec yes"}, 1000);
    ASSERT_NE(client.next()->body_as_Started(), nullptr);
    client.send(2, wire::CreateCancel(client.buffer()));
    const auto* end = exited(2);
    ASSERT_NE(end, nullptr);
    EXPECT_EQ(end->signal(), SIGKILL);
    // Again, after the end and for a stream that never was: passed over.
    client.send(2, wire::CreateCancel(client.buffer()));
    client.send(77, wire::CreateCancel(client.buffer()));
    client.send(3, wire::CreatePing(client.buffer()));
    EXPECT_NE(client.next()->body_as_Pong(), nullptr);
}

TEST_F(AgentRequest, FramesThatACommandDoesNotTakeEndTheConnection) {
    client.exec(2, {"sleep", "1000"}, 1000);
    ASSERT_NE(client.next()->body_as_Started(), nullptr);
    client.send(2, wire::CreateFileData(client.buffer(), 0, true));
    const auto* error = expect_error(0, wire::ErrorCode::invalid_argument);
    ASSERT_NE(error, nullptr);
    EXPECT_THAT(error->message()->str(), HasSubstr("takes no FileData"));
    EXPECT_EQ(client.next(), nullptr);
}

TEST_F(AgentRequest, SetsAndUnsetsTheDefaultEnvironmentForAllClients) {
    auto& buffer = client.buffer();
    auto set = buffer.CreateVectorOfStrings({"KEPT=1 2", "GONE=3", "TERM=xterm"});
    auto unset = buffer.CreateVectorOfStrings({"GONE"});
    client.send(2, wire::CreateSetEnvironment(buffer, set, unset));
    ASSERT_NE(client.next()->body_as_Done(), nullptr);
    AgentClient other = agent.client();
    const auto outcome = run(other, shell("echo \"$KEPT|${GONE-unset}|$TERM\""));
    ASSERT_TRUE(outcome) << outcome.error().message;
    EXPECT_EQ(outcome->out, "1 2|unset|xterm\n");
    ExecRequest own = shell("echo \"$KEPT\"");
    own.environment = {{"KEPT", "mine"}};
    EXPECT_EQ(run(other, own)->out, "mine\n");

    // All of it or nothing.
    set = buffer.CreateVectorOfStrings({"KEPT=changed", "no assignment"});
    client.send(3, wire::CreateSetEnvironment(buffer, set));
    expect_error(3, wire::ErrorCode::invalid_argument);
    EXPECT_EQ(run(other, shell("echo \"$KEPT\""))->out, "1 2\n");
}

}  // namespace
}  // namespace spore
