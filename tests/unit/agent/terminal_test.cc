// Commands in a terminal, in the real agent.

#include <fcntl.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "tests/unit/agent/exec_fixture.h"

namespace spore {
namespace {

using testing::HasSubstr;
using End = ExecResult::End;

class TerminalTest : public ExecFixture {
  protected:
    static ExecRequest on_terminal(const std::string& script, TerminalSize size = {}) {
        ExecRequest request = shell(script);
        request.pty = size;
        return request;
    }
    // Its output behind "ready", whereupon so much was typed, and then the end.
    std::string typed(const std::string& script, const std::string& keys, int status = 0) {
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        UniqueFd in(ends[0]), keyboard(ends[1]);
        std::string out;
        ExecStreams streams = {.stdin_fd = in.get()};
        streams.on_stdout = [&](auto bytes) {
            (void)collect(out, bytes);
            if (keyboard && out.starts_with("ready\r\n")) {
                out.clear();
                EXPECT_EQ(::write(keyboard.get(), keys.data(), keys.size()), ssize_t(keys.size()));
                keyboard.reset();
            }
            return Status();
        };
        EXPECT_EQ(ok(on_terminal(script), streams).result.exit_status, status);
        return out;
    }
};

TEST_F(TerminalTest, IsAllThreeStreamsAndControlsTheSession) {
    const Outcome outcome =
        ok(on_terminal("test -t 0 && test -t 1 && test -t 2 && stty size; "
                       "echo err >&2; echo mine >/dev/tty; exit 3",
                       {.rows = 31, .columns = 117}));
    EXPECT_EQ(outcome.out, "31 117\r\nerr\r\nmine\r\n");
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(outcome.result.exit_status, 3);
}

TEST_F(TerminalTest, TellsTheProgramOfAnotherSize) {
    auto control = std::move(*ExecControl::create());
    std::string seen;
    ExecStreams streams = {.control = control.get()};
    streams.on_stdout = [&](auto bytes) {
        (void)collect(seen, bytes);
        if (seen == "ready\r\n")
            control->resize({.rows = 50, .columns = 132});
        return Status();
    };
    ok({.argv = {"python3", "-c",
                 "import os, signal, sys\n"
                 "def changed(*_):\n"
                 "    os.write(1, b'%d %d\\n' % os.get_terminal_size()); os._exit(4)\n"
                 "signal.signal(signal.SIGWINCH, changed)\n"
                 "print('ready', flush=True)\n"
                 "while True: signal.pause()\n"},
        .pty = TerminalSize{}},
       streams);
    EXPECT_EQ(seen, "ready\r\n132 50\r\n");
}

TEST_F(TerminalTest, TheInterruptKeyInterrupts) {
    EXPECT_THAT(typed("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done",
                      "\x03", 5),
                HasSubstr("caught"));
}

TEST_F(TerminalTest, TheEndOfStdinIsTyped) {
    EXPECT_EQ(typed("stty -echo; echo ready; cat", "line\n"), "line\r\n");
    EXPECT_EQ(typed("stty -echo; echo ready; cat", "no newline"), "no newline");
    // Read key by key, it is a key.
    EXPECT_EQ(typed("stty raw opost -echo; echo ready; head -c 3 | od -An -tx1", "ab"),
              " 61 62 04\r\n");
}

TEST_F(TerminalTest, CarriesEveryByteAndAllOfItBeforeTheEnd) {
    const std::string content = pattern(600'000, 7);
    const std::string file = write_file(agent.directory() + "/screen", content);
    const Outcome outcome = ok(on_terminal("stty raw -echo; cat " + file));
    EXPECT_EQ(outcome.out.size(), content.size());
    EXPECT_TRUE(outcome.out == content);
    // Many short ones: what is written last must not be lost with the end.
    for (int i = 0; i < 50; ++i)
        ASSERT_EQ(ok(on_terminal("printf 'a\\033[2Jb'")).out, "a\033[2Jb");
}

TEST_F(TerminalTest, OutputWaitsForCreditAfterTheEnd) {
    RawClient raw(agent.connect_socket());
    raw.greet();
    auto& buffer = raw.buffer();
    const auto argv = buffer.CreateVectorOfStrings({"printf", std::string(95, 'x')});
    const auto pty = wire::CreatePty(buffer, 24, 80);
    raw.send(2, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 10, 0, pty));
    ASSERT_NE(raw.next()->body_as_Started(), nullptr);
    std::string out;
    while (true) {
        const auto* frame = raw.next();
        ASSERT_NE(frame, nullptr);
        if (frame->body_as_Exited() != nullptr)
            break;
        ASSERT_NE(frame->body_as_Output(), nullptr);
        const auto* bytes = frame->body_as_Output()->bytes();
        EXPECT_LE(bytes->size(), 10u);
        out.append(bytes->begin(), bytes->end());
        raw.send(2, wire::CreateCredit(raw.buffer(), 1, bytes->size()));
    }
    EXPECT_EQ(out, std::string(95, 'x'));
}

TEST_F(TerminalTest, AProcessThatHoldsItDoesNotHoldUpTheEnd) {
    const Outcome outcome =
        ok(on_terminal("trap '' HUP; sleep 1000 & echo $!; yes >/dev/tty & echo $!; exit 6"));
    EXPECT_EQ(outcome.result.exit_status, 6);
    // The writer may have begun before its PID is told.
    std::string digits = outcome.out;
    std::ranges::replace_if(digits, [](char c) { return c < '0' || c > '9'; }, ' ');
    std::istringstream pids(digits);
    pid_t sleeper = 0, writer = 0;
    pids >> sleeper >> writer;
    ASSERT_GT(sleeper, 0);
    ASSERT_GT(writer, 0);
    EXPECT_EQ(::kill(sleeper, SIGKILL), 0) << "what ignores the hang-up lives on";
    EXPECT_TRUE(ends(writer)) << "its terminal is gone";
}

TEST_F(TerminalTest, IsOfTheUserWhoseCommandItIs) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root may become somebody else";
    ExecRequest request = on_terminal("stat -c %U $(tty); echo again >$(tty)");
    request.cwd = "/";
    request.user = "daemon";
    EXPECT_EQ(ok(request).out, "daemon\r\nagain\r\n");
}

TEST_F(TerminalTest, TimeoutKillsTheJobsInGroupsOfTheirOwn) {
    ExecRequest request = on_terminal("set -m; sleep 1000 & echo $!; wait");
    request.timeout = std::chrono::milliseconds(700);
    const Outcome outcome = ok(request);
    EXPECT_EQ(outcome.result.end, End::timed_out);
    ASSERT_NE(outcome.out, "");
    EXPECT_TRUE(ends(std::stoi(outcome.out)));
}

TEST_F(TerminalTest, HangUpKillsTheSessionOfAClientThatVanishes) {
    pid_t pid = 0;
    {
        RawClient vanishing(agent.connect_socket());
        vanishing.greet();
        auto& buffer = vanishing.buffer();
        const auto argv = buffer.CreateVectorOfStrings(
            {"sh", "-c", "trap '' HUP; set -m; sleep 1000 & echo $!; wait"});
        const auto pty = wire::CreatePty(buffer, 24, 80);
        vanishing.send(2,
                       wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 1000, 0, pty));
        ASSERT_NE(vanishing.next()->body_as_Started(), nullptr);
        const auto* output = vanishing.next()->body_as_Output();
        ASSERT_NE(output, nullptr);
        pid = std::stoi(std::string(output->bytes()->begin(), output->bytes()->end()));
    }
    EXPECT_TRUE(ends(pid));
    EXPECT_EQ(ok(shell("echo next")).out, "next\n");
}

TEST_F(TerminalTest, CancelEndsAProgramWhoseOutputNobodyTakes) {
    RawClient raw(agent.connect_socket());
    raw.greet();
    auto& buffer = raw.buffer();
    const auto argv = buffer.CreateVectorOfStrings({"yes"});
    const auto pty = wire::CreatePty(buffer, 24, 80);
    raw.send(2, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 100, 0, pty));
    ASSERT_NE(raw.next()->body_as_Started(), nullptr);
    ASSERT_NE(raw.next()->body_as_Output(), nullptr);
    raw.send(2, wire::CreateCancel(raw.buffer()));
    const auto* frame = raw.next();
    while (frame != nullptr && frame->body_as_Output() != nullptr)
        frame = raw.next();
    ASSERT_NE(frame, nullptr);
    ASSERT_NE(frame->body_as_Exited(), nullptr);
    EXPECT_EQ(frame->body_as_Exited()->signal(), SIGKILL);
}

TEST_F(TerminalTest, ACommandWithoutOneTakesNoSize) {
    RawClient raw(agent.connect_socket());
    raw.greet();
    raw.exec(2, {"sleep", "1000"}, 1000);
    ASSERT_NE(raw.next()->body_as_Started(), nullptr);
    raw.send(2, wire::CreateWindowSize(raw.buffer(), 1, 1));
    const auto* frame = raw.next();
    ASSERT_NE(frame, nullptr);
    ASSERT_NE(frame->body_as_Error(), nullptr);
    EXPECT_THAT(frame->body_as_Error()->message()->str(), HasSubstr("takes no WindowSize"));
}

TEST_F(TerminalTest, IsNotAskedOfAnAgentThatWouldPassOverIt) {
    auto old = AgentClient::attach(agent.connect_socket(), 1024, {.protocol = 2});
    ASSERT_TRUE(old);
    const auto refused = old->exec(on_terminal("true"), {}, soon());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::host_unsupported);
    ExecRequest line = {.argv = {"true"}, .session = "one"};
    EXPECT_EQ(old->exec(line, {}, soon()).error().code, Code::host_unsupported);
}

}  // namespace
}  // namespace spore
