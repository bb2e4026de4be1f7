// Processes that no connection owns, as a client sees them on the wire.

#include <gmock/gmock.h>

#include "tests/unit/agent/running_agent.h"

namespace spore {
namespace {

using testing::HasSubstr;

struct StartOptions {
    std::string name;
    bool with_stdin = false;
    uint64_t log_bytes_max = 0;
};

class Process : public testing::Test {
  protected:
    void SetUp() override { client.greet(); }

    void send_start(uint32_t stream, const std::vector<std::string>& argv, StartOptions options) {
        auto& buffer = client.buffer();
        const auto words = buffer.CreateVectorOfStrings(argv);
        const auto exec =
            wire::CreateExec(buffer, words, 0, 0, false, 0, 0, options.with_stdin, 0, 0, 0);
        const auto name = buffer.CreateString(options.name);
        client.send(stream, wire::CreateProcessStart(buffer, exec, name, options.log_bytes_max));
    }
    // Its ID.
    uint32_t start(const std::string& script, StartOptions options = {}) {
        send_start(900, {"sh", "-c", script}, options);
        const auto* frame = client.next();
        const auto* started = frame == nullptr ? nullptr : frame->body_as_ProcessStarted();
        if (started == nullptr) {
            ADD_FAILURE() << "not started";
            return 0;
        }
        EXPECT_GT(started->pid(), 0);
        const uint32_t id = started->id();
        EXPECT_NE(client.next()->body_as_Done(), nullptr);
        return id;
    }
    void expect_error(wire::ErrorCode code, const std::string& words = "") {
        const auto* frame = client.next();
        ASSERT_NE(frame, nullptr);
        ASSERT_NE(frame->body_as_Error(), nullptr) << wire::EnumNameBody(frame->body_type());
        EXPECT_EQ(frame->body_as_Error()->code(), code) << frame->body_as_Error()->message()->str();
        EXPECT_THAT(frame->body_as_Error()->message()->str(), HasSubstr(words));
    }
    const wire::Exited* wait(uint32_t id) {
        client.send(901, wire::CreateProcessWait(client.buffer(), id));
        const auto* frame = client.next();
        return frame == nullptr ? nullptr : frame->body_as_Exited();
    }
    // All that is kept.
    std::string log(uint32_t id, bool follow = false) {
        client.send(902, wire::CreateProcessLogs(client.buffer(), id, 0, 0, follow, 1 << 30));
        std::string text;
        while (const auto* frame = client.next()) {
            const auto* record = frame->body_as_LogRecord();
            if (record == nullptr) {
                EXPECT_NE(frame->body_as_Done(), nullptr);
                break;
            }
            const auto bytes = view(record->bytes());
            text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        }
        return text;
    }

    RunningAgent agent;
    RawClient client{agent.connect_socket()};
};

TEST_F(Process, KeepsItsOutputAndItsEnd) {
    const uint32_t id = start("echo out; echo err >&2; exit 3", {.name = "one"});
    const auto* end = wait(id);
    ASSERT_NE(end, nullptr);
    EXPECT_EQ(end->exit_status(), 3);
    EXPECT_GT(end->peak_memory_bytes(), 100'000u);
    const std::string text = log(id);
    EXPECT_THAT(text, HasSubstr("out\n"));
    EXPECT_THAT(text, HasSubstr("err\n"));

    client.send(2, wire::CreateProcessList(client.buffer()));
    const auto* info = client.next()->body_as_ProcessInfo();
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->id(), id);
    EXPECT_EQ(view(info->name()), "one");
    EXPECT_EQ(info->pid(), 0);
    EXPECT_EQ(info->state(), wire::ProcessState::ended);
    EXPECT_EQ(info->argv()->Get(2)->str(), "echo out; echo err >&2; exit 3");
    EXPECT_GT(info->started_ns(), 1'500'000'000'000'000'000);
    EXPECT_GE(info->ended_ns(), info->started_ns());
    EXPECT_EQ(info->exited()->exit_status(), 3);
    EXPECT_EQ(info->log_bytes(), 8u);
    EXPECT_NE(client.next()->body_as_Done(), nullptr);
}

TEST_F(Process, OutlivesItsClient) {
    const uint32_t id =
        start("while ! test -e " + agent.directory() + "/go; do sleep 0.01; done; echo seen");
    client = RawClient(agent.connect_socket());
    client.greet();
    ASSERT_EQ(::system(("touch " + agent.directory() + "/go").c_str()), 0);
    EXPECT_EQ(log(id, true), "seen\n");
    ASSERT_NE(wait(id), nullptr);
}

TEST_F(Process, SaysWhatCannotBeStarted) {
    send_start(2, {"no-such-program-here"}, {});
    const auto* failed = client.next()->body_as_StartFailed();
    ASSERT_NE(failed, nullptr);
    EXPECT_EQ(failed->exit_status(), 127);
    send_start(2, {}, {});
    expect_error(wire::ErrorCode::invalid_argument, "argv");
    send_start(2, {"true"}, {.name = "no/name"});
    expect_error(wire::ErrorCode::invalid_argument, "process name 'no/name'");
    send_start(2, {"true"}, {.log_bytes_max = 1});
    expect_error(wire::ErrorCode::invalid_argument, "log of 1 bytes");
    client.send(2, wire::CreateProcessList(client.buffer()));
    EXPECT_NE(client.next()->body_as_Done(), nullptr) << "there is none";
}

}  // namespace
}  // namespace spore
