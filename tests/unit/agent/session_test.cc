// Sessions in the real agent, through the host's side of them.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <thread>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_sessions.h"
#include "tests/unit/agent/exec_fixture.h"

namespace spore {
namespace {

using std::chrono_literals::operator""ms;
using testing::HasSubstr;
using End = ExecResult::End;

class SessionTest : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        auto connection = AgentConnection::over(agent.client());
        ASSERT_TRUE(connection) << connection.error().message;
        link = std::move(*connection);
        create("one");
    }
    void create(const std::string& name) {
        const Status created = create_session(
            *link, {.name = name, .cwd = agent.directory(), .shell = GetParam()}, soon());
        ASSERT_TRUE(created) << created.error().message;
    }
    static ExecRequest line(const std::string& text, const std::string& session = "one") {
        return {.argv = {text}, .session = session};
    }
    Result<Outcome> try_line(const ExecRequest& request, ExecStreams streams = {}) {
        Outcome outcome;
        if (!streams.on_stdout)
            streams.on_stdout = [&](auto bytes) { return collect(outcome.out, bytes); };
        if (!streams.on_stderr)
            streams.on_stderr = [&](auto bytes) { return collect(outcome.err, bytes); };
        outcome.result = TRY(link->exec(request, streams, soon()));
        return outcome;
    }
    Outcome ok(const ExecRequest& request, ExecStreams streams = {}) {
        auto outcome = try_line(request, std::move(streams));
        EXPECT_TRUE(outcome) << outcome.error().message;
        return outcome ? std::move(*outcome) : Outcome{};
    }
    Outcome ok(const std::string& text) { return ok(line(text)); }
    std::string out(const std::string& text) { return ok(text).out; }
    Code refused(const ExecRequest& request) {
        const auto outcome = try_line(request);
        EXPECT_FALSE(outcome);
        return outcome ? Code::internal : outcome.error().code;
    }
    SessionInfo info(const std::string& name = "one") {
        const auto sessions = list_sessions(*link, soon());
        EXPECT_TRUE(sessions);
        for (const SessionInfo& each : *sessions) {
            if (each.name == name)
                return each;
        }
        ADD_FAILURE() << "no session " << name;
        return {};
    }
    // Waits until a line of it runs.
    void wait_until_busy() {
        const auto deadline = soon();
        while (!info().busy && std::chrono::steady_clock::now() < deadline)
            ::usleep(2000);
    }

    RunningAgent agent;
    std::shared_ptr<AgentConnection> link;
};

TEST_P(SessionTest, KeepsDirectoryVariablesAndFunctions) {
    EXPECT_EQ(out("cd /usr; export A='x y' B=2; f() { echo \"f $1\"; }; C=local; umask 077"), "");
    EXPECT_EQ(out("echo \"$PWD|$A|$B|$C\"; f 3; sh -c 'echo \"$A|${C-not exported}\"'; umask"),
              "/usr|x y|2|local\nf 3\nx y|not exported\n0077\n");
    EXPECT_EQ(info().cwd, "/usr");
    EXPECT_EQ(out("alias ll='echo aliased'; exec 5>five; echo a >&5"), "");
    EXPECT_EQ(out("echo b >&5; cat five; unset A; echo ${A-gone}"), "a\nb\ngone\n");
}

TEST_P(SessionTest, GivesOutputAndStatusOfEachLine) {
    const Outcome both = ok("echo out; echo err >&2; (exit 3)");
    EXPECT_EQ(both.out, "out\n");
    EXPECT_EQ(both.err, "err\n");
    EXPECT_EQ(both.result.exit_status, 3);
    EXPECT_EQ(both.result.end, End::exited);
    EXPECT_FALSE(both.result.session_ended);
    const Outcome syntax = ok("if (");
    EXPECT_NE(syntax.result.exit_status, 0);
    EXPECT_THAT(syntax.err, HasSubstr("yntax error"));
    EXPECT_FALSE(syntax.result.session_ended);
    EXPECT_EQ(ok("no-such-program-here").result.exit_status, 127);
    EXPECT_EQ(ok("sh -c 'kill -9 $$'").result.exit_status, 137);
    EXPECT_EQ(out("echo 'it'\"'\"'s'\ncat <<E\nhere $((6*7))\nE\n# a comment"), "it's\nhere 42\n");
    EXPECT_EQ(out(""), "");
}

TEST_P(SessionTest, KeepsSessionsApartAndLetsThemShareTheRest) {
    create("two");
    ok("cd /usr; export MINE=1; echo shared >" + agent.directory() +
       "/file; sleep 1000 & echo $! >" + agent.directory() + "/pid");
    const Outcome other =
        ok(line("echo \"$PWD|${MINE-unset}\"; cat file; kill -0 $(cat pid) && echo there", "two"));
    EXPECT_EQ(other.out, agent.directory() + "|unset\nshared\nthere\n");
    EXPECT_EQ(ok(line("exit 4", "two")).result.exit_status, 4);
    EXPECT_EQ(out("echo $MINE; kill $!"), "1\n");
}

TEST_P(SessionTest, VariablesAndDirectoryOfALineAreForThatLineAlone) {
    ExecRequest request = line("echo \"$SECRET\"; sh -c 'echo \"$SECRET\"'; pwd; KEPT=1");
    request.environment = {{"SECRET", "it's; $(touch hacked) `x` \\"}};
    request.cwd = "/usr";
    ok("cd " + agent.directory() + "; mkdir -p here; cd here");
    EXPECT_EQ(ok(request).out,
              "it's; $(touch hacked) `x` \\\nit's; $(touch hacked) `x` \\\n/usr\n");
    EXPECT_EQ(out("echo \"${SECRET-unset}|$KEPT\"; pwd; ls"),
              "unset|1\n" + agent.directory() + "/here\n");
    // Nor in the environment of what that line has started before it, or of the shell.
    EXPECT_EQ(ok("tr '\\0' '\\n' </proc/$$/environ | grep -c SECRET").out, "0\n");
    request.environment = {{"a b", "c"}};
    EXPECT_EQ(refused(request), Code::invalid_argument);
    request.environment = {{"x;touch hacked;y", "c"}};
    EXPECT_EQ(refused(request), Code::invalid_argument);
}

TEST_P(SessionTest, FeedsALineWithStdinAndNothingElse) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]);
    const std::string content = pattern(40'000, 5);
    ASSERT_EQ(::write(ends[1], content.data(), content.size()), ssize_t(content.size()));
    ::close(ends[1]);
    EXPECT_TRUE(ok(line("cat; echo after"), {.stdin_fd = in.get()}).out == content + "after\n");
    EXPECT_EQ(out("cat; echo nothing"), "nothing\n");
    EXPECT_EQ(out("read x || echo end"), "end\n");
}

TEST_P(SessionTest, StreamsWithBackPressure) {
    const std::string content = pattern(3 << 20, 9);
    const std::string file = write_file(agent.directory() + "/large", content);
    size_t taken = 0;
    std::string seen;
    ExecStreams slow;
    slow.on_stdout = [&](auto bytes) {
        if (++taken < 20)
            ::usleep(1000);
        return collect(seen, bytes);
    };
    EXPECT_EQ(ok(line("cat large; echo end >&2"), slow).err, "end\n");
    EXPECT_TRUE(seen == content);
}

// Neither what a line writes anywhere it can, nor what it defines, is taken for its end.
TEST_P(SessionTest, ALineCannotForgeItsEnd) {
    EXPECT_EQ(out("echo e0; printf 'e0\\ns\\n' >&2; { echo e7 >&7; } 2>/dev/null || echo closed"),
              "e0\nclosed\n");
    EXPECT_EQ(out("sh -c 'for fd in 3 4 5 6 7 8 9; do eval \"echo e9 >&$fd\"; done' 2>/dev/null; "
                  "echo on"),
              "on\n");
    const Outcome defined =
        ok("command() { :; }; printf() { echo mine; }; alias command=false; exec 7>/dev/null; "
           "(exit 5)");
    EXPECT_EQ(defined.result.exit_status, 5);
    EXPECT_EQ(out("printf x; set -C; set -u; echo still"), "mine\nstill\n");
    EXPECT_EQ(ok("_spore_status=1; trap 'echo trapped' EXIT; (exit 6)").result.exit_status, 6);
}

TEST_P(SessionTest, BackgroundChildrenDoNotHoldUpTheEndOrMixIntoTheNext) {
    const std::string go = agent.directory() + "/go";
    ASSERT_EQ(::mkfifo(go.c_str(), 0600), 0);
    EXPECT_EQ(
        out("(read x <go; head -c 300000 /dev/zero | tr '\\0' x; echo late >done) & echo now"),
        "now\n");
    EXPECT_EQ(out("echo go >go; wait; cat done"), "late\n") << "and it did not die of writing";
}

TEST_P(SessionTest, RunsOneLineAtATimeInTheirOrder) {
    ASSERT_EQ(::mkfifo((agent.directory() + "/hold").c_str(), 0600), 0);
    std::vector<std::jthread> threads;
    threads.emplace_back([&] { ok("echo 1 >>order; read x <hold; echo 2 >>order"); });
    wait_until_busy();
    threads.emplace_back([&] { ok("echo 3 >>order"); });
    // A waiting line's timeout counts, and it can be cancelled; neither touches the one that runs.
    ExecRequest impatient = line("echo never >>order");
    impatient.timeout = 100ms;
    EXPECT_EQ(ok(impatient).result.end, End::timed_out);
    {
        AgentStream stream = link->open();
        auto& buffer = stream.buffer();
        const auto argv = buffer.CreateVectorOfStrings({"echo never >>order"});
        const auto name = buffer.CreateString("one");
        ASSERT_TRUE(stream.send(
            wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 1, 1, 0, name)));
        ASSERT_TRUE(stream.send(wire::CreateCancel(stream.buffer())));
        EXPECT_EQ(stream.receive(soon()).error().code, Code::unavailable);
    }
    std::ofstream(agent.directory() + "/hold") << "go\n";
    threads.clear();
    EXPECT_EQ(out("cat order"), "1\n2\n3\n");
}

TEST_P(SessionTest, ATimeoutKillsTheLineAndKeepsTheDirectory) {
    ok("sleep 1000 & echo $! >server; export LOST=1");
    ExecRequest request = line("mkdir sub; cd sub; sleep 1000 & echo $!; sleep 1000; echo never");
    request.timeout = 700ms;
    const Outcome outcome = ok(request);
    EXPECT_EQ(outcome.result.end, End::timed_out);
    EXPECT_TRUE(outcome.result.session_ended);
    ASSERT_NE(outcome.out, "");
    EXPECT_TRUE(ends(std::stoi(outcome.out))) << "what the line had started goes with it";
    EXPECT_EQ(out("pwd; echo ${LOST-unset}; kill $(cat ../server) && echo lived"),
              agent.directory() + "/sub\nunset\nlived\n");
    ExecRequest busy = line("while :; do :; done");
    busy.timeout = 200ms;
    EXPECT_EQ(ok(busy).result.end, End::timed_out);
    EXPECT_EQ(out("echo on"), "on\n");
}

TEST_P(SessionTest, CancelKillsTheLineAlone) {
    auto control = std::move(*ExecControl::create());
    ExecStreams streams = {.control = control.get()};
    streams.on_started = [&](int) { control->cancel(); };
    const Outcome outcome = ok(line("sleep 1000; sleep 1000"), streams);
    EXPECT_EQ(outcome.result.signal, SIGKILL);
    EXPECT_TRUE(outcome.result.session_ended);
    EXPECT_EQ(out("echo on"), "on\n");
}

TEST_P(SessionTest, AClientThatVanishesTakesItsLineWithIt) {
    pid_t pid = 0;
    {
        RawClient vanishing(agent.connect_socket());
        vanishing.greet();
        auto& buffer = vanishing.buffer();
        const auto argv = buffer.CreateVectorOfStrings({"sleep 1000 & echo $!; wait"});
        const auto name = buffer.CreateString("one");
        vanishing.send(
            2, wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, false, 0, 1000, 1000, 0, name));
        ASSERT_NE(vanishing.next()->body_as_Started(), nullptr);
        const auto* output = vanishing.next()->body_as_Output();
        ASSERT_NE(output, nullptr);
        pid = std::stoi(std::string(output->bytes()->begin(), output->bytes()->end()));
    }
    EXPECT_TRUE(ends(pid));
    EXPECT_EQ(out("echo on"), "on\n");
}

TEST_P(SessionTest, ExitAndACrashEndNeitherTheSessionNorOthers) {
    create("two");
    ok(line("export KEEP=1", "two"));
    const Outcome exit = ok("cd /usr; export GONE=1; echo last; exit 7");
    EXPECT_EQ(exit.out, "last\n");
    EXPECT_EQ(exit.result.exit_status, 7);
    EXPECT_TRUE(exit.result.session_ended);
    EXPECT_EQ(out("echo ${GONE-unset}"), "unset\n");
    const Outcome crash = ok("cd /usr; kill -SEGV $$");
    EXPECT_EQ(crash.result.signal, SIGSEGV);
    EXPECT_TRUE(crash.result.session_ended);
    EXPECT_EQ(out("echo on"), "on\n");
    EXPECT_EQ(ok("exec sh -c 'echo replaced; exit 3'").result.exit_status, 3);
    EXPECT_EQ(ok("set -e; false; echo never").out, "");
    EXPECT_EQ(out("echo on"), "on\n");
    EXPECT_EQ(ok(line("echo $KEEP", "two")).out, "1\n");
}

TEST_P(SessionTest, AShellThatIsKilledBetweenLinesIsReplaced) {
    const pid_t shell = info().pid;
    ASSERT_GT(shell, 0);
    ASSERT_EQ(::kill(shell, SIGKILL), 0);
    const auto deadline = soon();
    while (info().pid == shell && std::chrono::steady_clock::now() < deadline)
        ::usleep(1000);
    EXPECT_EQ(info().pid, 0);
    EXPECT_EQ(out("echo on"), "on\n");
}

TEST_P(SessionTest, DeleteKillsTheShellAndFailsItsLines) {
    pid_t background = std::stoi(out("sleep 1000 & echo $!"));
    std::jthread running([&] {
        const Outcome outcome = ok("sleep 1000");
        EXPECT_EQ(outcome.result.signal, SIGKILL);
    });
    wait_until_busy();
    const pid_t shell = info().pid;
    ASSERT_TRUE(delete_session(*link, "one", soon()));
    running.join();
    EXPECT_TRUE(ends(shell));
    EXPECT_TRUE(ends(background));
    EXPECT_EQ(refused(line("true")), Code::not_found);
    EXPECT_EQ(delete_session(*link, "one", soon()).error().code, Code::not_found);
    EXPECT_TRUE(list_sessions(*link, soon())->empty());
    create("one");
    EXPECT_EQ(out("echo anew"), "anew\n");
}

TEST_P(SessionTest, RefusesWhatItCannotDo) {
    EXPECT_EQ(create_session(*link, {.name = "one"}, soon()).error().code, Code::already_exists);
    EXPECT_EQ(create_session(*link, {.name = "a/b"}, soon()).error().code, Code::invalid_argument);
    EXPECT_EQ(create_session(*link, {.name = ""}, soon()).error().code, Code::invalid_argument);
    EXPECT_EQ(create_session(*link, {.name = "x", .user = "nobody-there"}, soon()).error().code,
              Code::not_found);
    EXPECT_EQ(create_session(*link, {.name = "x", .cwd = "/no/such"}, soon()).error().code,
              Code::not_found);
    EXPECT_EQ(create_session(*link, {.name = "x", .shell = "/no/such"}, soon()).error().code,
              Code::not_found);
    EXPECT_EQ(refused(line("true", "none")), Code::not_found);
    ExecRequest request = line("true");
    request.argv = {"two", "words"};
    EXPECT_EQ(refused(request), Code::invalid_argument);
    request = line("true");
    request.pty.emplace();
    EXPECT_EQ(refused(request), Code::invalid_argument);
    request = line("true");
    request.user = "root";
    EXPECT_EQ(refused(request), Code::invalid_argument);
    request = line("true");
    request.cwd = "/no/such";
    EXPECT_EQ(refused(request), Code::not_found);
    EXPECT_EQ(refused(line(std::string(limits::kSessionLineBytesMax + 1, 'x'))),
              Code::invalid_argument);
    EXPECT_EQ(refused(line(std::string("a\0b", 3))), Code::invalid_argument);
    EXPECT_EQ(
        ok(line(": " + std::string(limits::kSessionLineBytesMax - 2, 'x'))).result.exit_status, 0);
    EXPECT_EQ(out("echo on"), "on\n");
}

TEST_P(SessionTest, LeavesNoFilesBehind) {
    const std::string file = out("readlink /proc/$$/fd/1");  // "... (deleted)"
    ASSERT_THAT(file, HasSubstr("/spore-sessions-"));
    const std::string directory = file.substr(0, file.rfind('/'));
    ok("echo");
    ok("exit 1");
    ok("cat </dev/null");
    EXPECT_TRUE(std::filesystem::is_empty(directory));
}

TEST_P(SessionTest, RunsAsAnotherUser) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root may become somebody else";
    ASSERT_TRUE(create_session(
        *link, {.name = "daemon", .cwd = "/", .user = "daemon", .shell = GetParam()}, soon()));
    EXPECT_EQ(ok(line("id -un; cd /usr", "daemon")).out, "daemon\n");
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]);
    ASSERT_EQ(::write(ends[1], "typed\n", 6), 6);
    ::close(ends[1]);
    EXPECT_EQ(ok(line("cat; pwd", "daemon"), {.stdin_fd = in.get()}).out, "typed\n/usr\n");
}

INSTANTIATE_TEST_SUITE_P(Shell, SessionTest, testing::Values("/bin/sh", "/bin/bash"),
                         [](const auto& shell) { return shell.param.substr(5); });

}  // namespace
}  // namespace spore
