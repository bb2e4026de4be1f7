// Commands through AgentClient in the real agent.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "tests/unit/agent/exec_fixture.h"

namespace spore {
namespace {

using std::chrono_literals::operator""ms;
using testing::HasSubstr;
using End = ExecResult::End;

using Exec = ExecFixture;

TEST_F(Exec, GivesOutputAndStatus) {
    const Outcome outcome = ok(shell("echo out; echo err >&2; exit 3"));
    EXPECT_EQ(outcome.out, "out\n");
    EXPECT_EQ(outcome.err, "err\n");
    EXPECT_EQ(outcome.result.end, End::exited);
    EXPECT_EQ(outcome.result.exit_status, 3);
    EXPECT_GT(outcome.result.peak_memory_bytes, 100'000u);
}

TEST_F(Exec, CarriesAMegabyteOnEachStreamApart) {
    const std::string out = pattern(1 << 20, 1), err = pattern(1 << 20, 2);
    const std::string out_file = write_file(agent.directory() + "/out", out);
    const std::string err_file = write_file(agent.directory() + "/err", err);
    const Outcome outcome = ok(shell("cat " + out_file + " & cat " + err_file + " >&2; wait"));
    EXPECT_TRUE(outcome.out == out);
    EXPECT_TRUE(outcome.err == err);
}

TEST_F(Exec, EchoesFiveMegabytesOfStdin) {
    const std::string content = pattern(5 << 20, 3);
    UniqueFd file(
        ::open(write_file(agent.directory() + "/in", content).c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(file);
    const Outcome outcome = ok({.argv = {"cat"}}, {.stdin_fd = file.get()});
    EXPECT_TRUE(outcome.out == content);
    EXPECT_EQ(outcome.result.exit_status, 0);
}

TEST_F(Exec, StopsReadingStdinThatTheCommandHasClosed) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]), endless(ends[1]);  // never closed before the command's end
    ASSERT_EQ(::write(endless.get(), "x\n", 2), 2);
    const Outcome outcome = ok(shell("read line; exec <&-; echo $line"), {.stdin_fd = in.get()});
    EXPECT_EQ(outcome.out, "x\n");
}

TEST_F(Exec, HasNothingOnStdinUnlessGiven) {
    EXPECT_EQ(ok({.argv = {"cat"}}).out, "");
}

TEST_F(Exec, ReportsTheSignalThatEndedIt) {
    const Outcome outcome = ok(shell("kill -TERM $$"));
    EXPECT_EQ(outcome.result.end, End::signaled);
    EXPECT_EQ(outcome.result.signal, SIGTERM);
    EXPECT_EQ(outcome.result.exit_status, 128 + SIGTERM);
}

TEST_F(Exec, TellsMissingFromNotExecutable) {
    const Outcome missing = ok({.argv = {"no-such-program-here"}});
    EXPECT_EQ(missing.result.end, End::not_started);
    EXPECT_EQ(missing.result.exit_status, 127);
    EXPECT_THAT(missing.result.message, HasSubstr("no-such-program-here"));
    const Outcome no_path = ok({.argv = {"/no/such/program"}});
    EXPECT_EQ(no_path.result.exit_status, 127);
    EXPECT_THAT(no_path.result.message, HasSubstr("No such file or directory"));

    const std::string text = write_file(agent.directory() + "/text", "not a program");
    EXPECT_EQ(ok({.argv = {text}}).result.exit_status, 126);
    ASSERT_EQ(::chmod(text.c_str(), 0755), 0);
    const Outcome not_a_program = ok({.argv = {text}});
    EXPECT_EQ(not_a_program.result.exit_status, 126);
    EXPECT_THAT(not_a_program.result.message, HasSubstr("Exec format error"));
    EXPECT_EQ(ok({.argv = {"/"}}).result.exit_status, 126);
}

TEST_F(Exec, TimeoutKillsTheWholeProcessGroup) {
    ExecRequest request = shell("sh -c 'sleep 1000 & echo $!; wait' & wait");
    request.timeout = 300ms;
    const Outcome outcome = ok(request);
    EXPECT_EQ(outcome.result.end, End::timed_out);
    EXPECT_EQ(outcome.result.exit_status, 124);
    ASSERT_NE(outcome.out, "") << "killed before the grandchild was there";
    EXPECT_TRUE(ends(std::stoi(outcome.out)));
}

TEST_F(Exec, DeliversAllOutputBeforeTheEndAndNothingAfter) {
    pid_t group = 0;
    const Outcome outcome = ok(shell("head -c 60000 /dev/zero; (sleep 1000; echo late) & echo $!"),
                               {.on_started = [&](int pid) { group = pid; }});
    EXPECT_EQ(outcome.result.exit_status, 0);
    ASSERT_GT(outcome.out.size(), 60'000u);
    const pid_t background = std::stoi(outcome.out.substr(60'000));
    EXPECT_EQ(::kill(background, 0), 0) << "what a command leaves in the background lives on";
    EXPECT_EQ(::kill(-group, SIGKILL), 0);
}

TEST_F(Exec, BackgroundProcessMayWriteAfterTheEnd) {
    const std::string done = agent.directory() + "/done";
    const std::string go = agent.directory() + "/go";
    ASSERT_EQ(::mkfifo(go.c_str(), 0600), 0);
    ok(shell("(read x <" + go + "; head -c 1000000 /dev/zero && echo fine >" + done + ") &"));
    std::ofstream(go) << "go\n";
    const auto deadline = soon();
    while (!std::filesystem::exists(done) && std::chrono::steady_clock::now() < deadline)
        ::usleep(2000);
    EXPECT_TRUE(std::filesystem::exists(done));
}

TEST_F(Exec, RunsTenAtOnce) {
    std::vector<std::jthread> threads;
    std::atomic<int> good = 0;
    for (int i = 0; i < 10; ++i) {
        threads.emplace_back([&, i] {
            AgentClient own = agent.client();
            const auto outcome = run(own, shell("head -c 300000 /dev/zero | tr '\\0' " +
                                                std::to_string(i) + "; exit " + std::to_string(i)));
            if (outcome && outcome->out == std::string(300'000, static_cast<char>('0' + i)) &&
                outcome->result.exit_status == i)
                ++good;
        });
    }
    threads.clear();
    EXPECT_EQ(good, 10);
}

TEST_F(Exec, PassesSignalsToTheGroup) {
    auto control = std::move(*ExecControl::create());
    ExecStreams streams = {.control = control.get()};
    std::string out;
    streams.on_stdout = [&](auto bytes) {
        (void)collect(out, bytes);
        control->signal(SIGUSR1);
        return Status();
    };
    const Outcome outcome =
        ok(shell("trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"), streams);
    EXPECT_EQ(outcome.result.exit_status, 7);
}

TEST_F(Exec, IsCancelledFromAnotherThread) {
    auto control = std::move(*ExecControl::create());
    std::jthread canceller;
    ExecStreams streams = {.control = control.get()};
    streams.on_started = [&](int) { canceller = std::jthread([&] { control->cancel(); }); };
    const Outcome outcome = ok({.argv = {"sleep", "1000"}}, streams);
    EXPECT_EQ(outcome.result.signal, SIGKILL);
    EXPECT_EQ(ok(shell("echo next")).out, "next\n") << "the connection serves on";
}

TEST_F(Exec, EndsWithTheSinksError) {
    ExecStreams streams;
    streams.on_stdout = [](auto) { return Status(fail(Code::resource_exhausted, "disk full")); };
    const auto outcome = run(client, {.argv = {"yes"}}, streams);
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().message, "disk full");
    EXPECT_EQ(ok(shell("echo next")).out, "next\n");
}

TEST_F(Exec, DeadlineKillsTheCommandAndEndsTheConnection) {
    pid_t pid = 0;
    ExecStreams streams = {.on_started = [&](int started) { pid = started; }};
    const auto result =
        client.exec({.argv = {"sleep", "1000"}}, streams, std::chrono::steady_clock::now() + 500ms);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::timeout);
    ASSERT_GT(pid, 0);
    EXPECT_TRUE(ends(pid));
    EXPECT_TRUE(client.broken());
    EXPECT_EQ(error_of(shell("true")).code, Code::unavailable);
}

TEST_F(Exec, KillsTheCommandOfAClientThatVanishes) {
    pid_t pid = 0;
    {
        RawClient vanishing(agent.connect_socket());
        vanishing.greet();
        vanishing.exec(2, {"sh", "-c", "sleep 1000 & echo $!; wait"}, 1 << 16);
        ASSERT_NE(vanishing.next()->body_as_Started(), nullptr);
        const auto* output = vanishing.next()->body_as_Output();
        ASSERT_NE(output, nullptr);
        pid = std::stoi(std::string(reinterpret_cast<const char*>(output->bytes()->data()),
                                    output->bytes()->size()));
    }
    EXPECT_TRUE(ends(pid)) << "a grandchild of the command";
    EXPECT_EQ(ok(shell("echo next")).out, "next\n");
}

TEST_F(Exec, RefusesAMissingCwdAndAnUnknownUser) {
    ExecRequest request = shell("pwd");
    request.cwd = "/no/such/folder";
    EXPECT_EQ(error_of(request).code, Code::not_found);
    EXPECT_THAT(error_of(request).message, HasSubstr("/no/such/folder"));
    request.cwd = agent.directory();
    EXPECT_EQ(ok(request).out, agent.directory() + "\n");
    request.user = "nobody-of-that-name";
    EXPECT_EQ(error_of(request).code, Code::not_found);
    EXPECT_THAT(error_of(request).message, HasSubstr("nobody-of-that-name"));
    request.user = "nobody:no-such-group";
    EXPECT_THAT(error_of(request).message, HasSubstr("no-such-group"));
}

TEST_F(Exec, RefusesPathsAndNamesThatAreTooLong) {
    const std::string path = "/" + std::string(4999, 'x');
    ExecRequest request = shell("true");
    request.cwd = path;
    EXPECT_EQ(error_of(request).code, Code::invalid_argument) << error_of(request).message;
    EXPECT_LT(error_of(request).message.size(), 1000u);
    request.cwd = "";
    request.user = path;
    EXPECT_EQ(error_of(request).code, Code::not_found) << error_of(request).message;
    EXPECT_LT(error_of(request).message.size(), 1000u);
    const Outcome missing = ok({.argv = {path}});
    EXPECT_EQ(missing.result.end, End::not_started);
    EXPECT_LT(missing.result.message.size(), 1000u) << missing.result.message;
}

// What is wrong is named, and might be as long as a frame: the answer would then be longer.
TEST_F(Exec, AnswersToLongWordsAreShort) {
    const std::string word(3'900'000, 'x');
    ExecRequest request = shell("true");
    request.user = word;
    EXPECT_EQ(error_of(request).code, Code::not_found);
    request.user = "";
    request.cwd = word;
    EXPECT_EQ(error_of(request).code, Code::invalid_argument);
    request.cwd = "";
    request.environment = {{word, ""}};
    EXPECT_EQ(error_of(request).code, Code::invalid_argument);
    const auto started = run(client, {.argv = {word}});
    EXPECT_TRUE(!started || started->result.end == End::not_started);
    EXPECT_EQ(ok(shell("echo on")).out, "on\n");
}

// The shell says by `times` what it has used itself.
TEST_F(Exec, TellsProcessorTimeAndPeakMemory) {
    const Outcome busy =
        ok(shell("i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; times | head -n 1"));
    double minutes = 0, seconds = 0;
    ASSERT_EQ(std::sscanf(busy.out.c_str(), "%lfm%lfs", &minutes, &seconds), 2) << busy.out;
    EXPECT_GE(static_cast<double>(busy.result.cpu_us), (minutes * 60 + seconds) * 1e6 - 20'000);
    EXPECT_GT(busy.result.cpu_us, 10'000u);
    const Outcome idle = ok(shell("sleep 0.3"));
    EXPECT_LT(idle.result.cpu_us, 200'000u) << "time that passes is none";
    // `tail` keeps all of it, as there is no line in it.
    const Outcome large = ok(shell("head -c 60000000 /dev/zero | tail -n 1 | wc -c"));
    EXPECT_EQ(large.out, "60000000\n");
    EXPECT_GT(large.result.peak_memory_bytes, 60'000'000u);
    EXPECT_LT(large.result.peak_memory_bytes, 400'000'000u);
}

TEST_F(Exec, RunsAsAnotherUser) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root may become somebody else";
    ExecRequest request = shell("id -un; id -u; id -gn; echo $HOME $USER");
    request.cwd = "/";
    request.user = "daemon";
    EXPECT_EQ(ok(request).out, "daemon\n1\ndaemon\n/usr/sbin daemon\n");
    request.user = "4711:nogroup";
    EXPECT_THAT(ok(request).out, HasSubstr("4711\nnogroup\n"));
}

TEST_F(Exec, SetsAndUnsetsTheEnvironment) {
    ExecRequest request = shell("echo \"$A|${B-unset}|$PATH|${HOME-unset}\"");
    request.environment = {{"A", "a b=c"}, {"B", "b"}};
    request.unset = {"B", "HOME"};
    EXPECT_EQ(ok(request).out,
              "a b=c|unset|/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin|unset\n");
    const Outcome empty = ok({.argv = {"env"}, .clear_environment = true});
    EXPECT_EQ(empty.out, "");
    EXPECT_EQ(error_of({.argv = {"true"}, .environment = {{"", "x"}}}).code,
              Code::invalid_argument);
    EXPECT_EQ(error_of({.argv = {"true"}, .environment = {{"A=B", "x"}}}).code,
              Code::invalid_argument);
}

TEST_F(Exec, LooksTheProgramUpInItsOwnPath) {
    const std::string program = write_file(agent.directory() + "/greet", "#!/bin/sh\necho hello\n");
    ASSERT_EQ(::chmod(program.c_str(), 0755), 0);
    const Outcome outcome =
        ok({.argv = {"greet"}, .environment = {{"PATH", "/nowhere:" + agent.directory()}}});
    EXPECT_EQ(outcome.out, "hello\n");
}

TEST_F(Exec, StartsWithSignalsAndOomScoreOfAnOrdinaryProcess) {
    EXPECT_EQ(ok(shell("grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d ' \\t'; "
                       "cat /proc/self/oom_score_adj"))
                  .out,
              "SigBlk:0000000000000000\nSigIgn:0000000000000000\n0\n");
}

TEST_F(Exec, LeaksNoDescriptorToACommand) {
    EXPECT_EQ(ok({.argv = {"sh", "-c", "ls /proc/$$/fd"}}).out, "0\n1\n2\n");
}

TEST_F(Exec, TakesTenThousandArguments) {
    ExecRequest request = shell("echo $#");
    request.argv.resize(10'003, "argument");
    // Less sh, -c, the script and $0.
    EXPECT_EQ(ok(request).out, "9999\n");
}

TEST_F(Exec, SaysThatArgumentsAreTooLong) {
    ExecRequest one_string = {.argv = {"true", std::string(200'000, 'x')}};  // above MAX_ARG_STRLEN
    EXPECT_EQ(error_of(one_string).code, Code::invalid_argument);
    EXPECT_THAT(error_of(one_string).message, HasSubstr("Argument list too long"));
    ExecRequest a_frame = {.argv = {"true"}};
    a_frame.argv.resize(100, std::string(100'000, 'x'));
    EXPECT_EQ(error_of(a_frame).code, Code::invalid_argument);
    EXPECT_THAT(error_of(a_frame).message, HasSubstr("must be at most"));
    EXPECT_EQ(ok(shell("echo next")).out, "next\n");
}

TEST_F(Exec, RefusesANulAndAnEmptyCommand) {
    EXPECT_EQ(error_of({.argv = {"true", std::string("a\0b", 3)}}).code, Code::invalid_argument);
    EXPECT_EQ(error_of({}).code, Code::invalid_argument);
    EXPECT_EQ(error_of({.argv = {""}}).code, Code::invalid_argument);
    ExecRequest request = shell("true");
    request.cwd = std::string("/tmp\0x", 6);
    EXPECT_EQ(error_of(request).code, Code::invalid_argument);
}

}  // namespace
}  // namespace spore
