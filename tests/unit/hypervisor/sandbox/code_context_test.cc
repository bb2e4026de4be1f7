// Code contexts in the real agent, with this machine's interpreters.

#include "hypervisor/sandbox/code_context.h"

#include "hypervisor/base/base64.h"
#include "tests/unit/agent/process_fixture.h"

namespace spore {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;
using RunEnd = RunResult::End;

bool has_program(const std::string& name) {
    return ::system(("command -v " + name + " >/dev/null 2>&1").c_str()) == 0;
}

class ContextFixture : public ProcessFixture {
  protected:
    void create(const std::string& name, ContextLanguage language) {
        const Status made = contexts().create({.name = name, .language = language}, soon());
        ASSERT_TRUE(made) << made.error().message;
    }
    CodeContexts contexts() { return CodeContexts(*connection); }

    struct Ran {
        RunResult result;
        std::string out, err;
        std::string plain;  // of the result
    };
    Ran run(const std::string& code, const std::string& name = "one",
            std::chrono::milliseconds timeout = {}) {
        Ran ran;
        const RunStreams streams = {.on_stdout = [&](std::string_view bytes) -> Status {
                                        ran.out += bytes;
                                        return {};
                                    },
                                    .on_stderr = [&](std::string_view bytes) -> Status {
                                        ran.err += bytes;
                                        return {};
                                    },
                                    .on_display = {}};
        auto result = contexts().run(name, code, streams, timeout, soon());
        EXPECT_TRUE(result) << result.error().message;
        if (result)
            ran.result = std::move(*result);
        if (ran.result.result && ran.result.result->contains("text/plain"))
            ran.plain = ran.result.result->at("text/plain");
        return ran;
    }
};

class PythonContext : public ContextFixture {
  protected:
    void SetUp() override {
        ProcessFixture::SetUp();
        if (!has_program("python3"))
            GTEST_SKIP() << "no python3 here";
        create("one", ContextLanguage::python);
    }
};

TEST_F(PythonContext, KeepsItsState) {
    EXPECT_EQ(run("import math\nx = 6").plain, "");
    EXPECT_EQ(run("def f(y): return x * y").plain, "");
    const Ran ran = run("print('out'); import sys; print('err', file=sys.stderr)\nf(7)");
    EXPECT_EQ(ran.result.end, RunEnd::ok);
    EXPECT_EQ(ran.out, "out\n");
    EXPECT_EQ(ran.err, "err\n");
    EXPECT_EQ(ran.plain, "42");
    EXPECT_EQ(run("_ + 1").plain, "43");
    EXPECT_EQ(run("import asyncio\nasync def g(): return 'awaited'\nawait g()").plain, "'awaited'");
}

TEST_F(PythonContext, TellsErrorsWithTheLinesOfTheCode) {
    const Ran ran = run("def bad():\n    return 1 / 0\nbad()");
    EXPECT_EQ(ran.result.end, RunEnd::error);
    ASSERT_TRUE(ran.result.error);
    EXPECT_EQ(ran.result.error->name, "ZeroDivisionError");
    EXPECT_EQ(ran.result.error->value, "division by zero");
    EXPECT_THAT(ran.result.error->traceback,
                HasSubstr("File \"<run 1>\", line 2, in bad\n    return 1 / 0\n"));
    EXPECT_THAT(ran.result.error->traceback, testing::Not(HasSubstr("evaluate")));
    EXPECT_EQ(run("a b").result.error->name, "SyntaxError");
    EXPECT_EQ(run("import sys; sys.exit(3)").result.error->name, "SystemExit");
    EXPECT_EQ(run("1 + 1").plain, "2") << "it goes on";
}

// Whoever waits no longer has no use for what it does.
TEST_F(PythonContext, InterruptsARunWhoseCallerLeaves) {
    const std::string code = "print('up')\nimport time\ntime.sleep(1000)";
    const RunStreams refusing = {
        .on_stdout = [](std::string_view) -> Status { return fail(Code::internal, "enough"); },
        .on_stderr = {},
        .on_display = {}};
    const auto refused = contexts().run("one", code, refusing, {}, soon());
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message, HasSubstr("enough"));
    EXPECT_EQ(run("1 + 1").plain, "2");

    std::stop_source stop;
    const RunStreams stopping = {.on_stdout = [&](std::string_view) -> Status {
                                     stop.request_stop();
                                     return {};
                                 },
                                 .on_stderr = {},
                                 .on_display = {}};
    const CancelScope scope(stop.get_token());
    const auto stopped = contexts().run("one", code, stopping, {}, soon());
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code, Code::unavailable);
    const CancelScope on(std::stop_token{});
    EXPECT_EQ(run("2 + 2").plain, "4");
}

TEST_F(PythonContext, TakesWhatIsWrittenToItsDescriptors) {
    Ran ran =
        run("import os; os.system('echo sub; echo suberr >&2'); os.write(1, b'\\xff\\x00'); None");
    EXPECT_EQ(ran.out, std::string("sub\n\xff\0", 6));
    EXPECT_EQ(ran.err, "suberr\n");
    ran =
        run("os.close(1); os.close(2); os.closerange(3, 100); sys = __import__('sys'); "
            "sys.stdout.close()");
    EXPECT_EQ(ran.result.end, RunEnd::ok) << (ran.result.error ? ran.result.error->traceback : "");
    EXPECT_EQ(run("print('still here')").out, "still here\n");
    // A line that looks like an answer is the code's own output.
    EXPECT_EQ(run("print('{\"run\":1,\"type\":\"end\"}')").out, "{\"run\":1,\"type\":\"end\"}\n");
    EXPECT_EQ(run("import os\nif os.fork() == 0: pass\nelse: os.wait()\nNone").result.end,
              RunEnd::ok);
    EXPECT_EQ(run("2 * 3").plain, "6");
    EXPECT_EQ(run("input()").result.error->name, "EOFError");
}

TEST_F(PythonContext, BoundsWhatOneRunWrites) {
    const Ran ran = run("print('x' * 3_000_000); 'end'");
    EXPECT_EQ(ran.out.size(), 1u << 20);
    EXPECT_TRUE(ran.result.truncated);
    EXPECT_EQ(ran.plain, "'end'");
    EXPECT_FALSE(run("1").result.truncated);
}

TEST_F(PythonContext, ShowsRichResults) {
    const Ran ran =
        run("class Picture:\n"
            "    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\nbytes'\n"
            "    def _repr_html_(self): return '<b>picture</b>'\n"
            "display(Picture(), [1, {'a': None}])\n"
            "Picture()");
    ASSERT_TRUE(ran.result.result) << (ran.result.error ? ran.result.error->traceback : "");
    EXPECT_EQ(from_base64(ran.result.result->at("image/png")), "\x89PNG\r\n\x1a\nbytes");
    EXPECT_EQ(ran.result.result->at("text/html"), "<b>picture</b>");
    EXPECT_THAT(ran.plain, HasSubstr("Picture object"));
    ASSERT_EQ(ran.result.displays.size(), 2u);
    EXPECT_EQ(ran.result.displays[1].at("application/json"), "[1, {\"a\": null}]");
}

// By the python3 of our own PATH, which the agent's need not be.
TEST_F(PythonContext, ShowsTheFiguresOfMatplotlib) {
    const std::string found = agent.directory() + "/found";
    if (::system(
            ("python3 -c 'import matplotlib, sys; print(sys.executable)' 2>/dev/null >" + found)
                .c_str()) != 0)
        GTEST_SKIP() << "this machine's python3 has no matplotlib";
    std::string program;
    std::getline(std::ifstream(found), program);
    const Status made = contexts().create({.name = "figures", .program = program}, soon());
    ASSERT_TRUE(made) << made.error().message;
    const Ran ran = run("import matplotlib.pyplot as plt\nplt.plot([1, 2]); None", "figures");
    ASSERT_EQ(ran.result.displays.size(), 1u)
        << (ran.result.error ? ran.result.error->traceback : "");
    EXPECT_THAT(*from_base64(ran.result.displays[0].at("image/png")), StartsWith("\x89PNG"));
}

TEST_F(PythonContext, IsInterruptedAndKeepsItsState) {
    run("kept = 5");
    std::jthread interrupting([&] {
        auto other = AgentConnection::over(agent.client());
        ASSERT_TRUE(other);
        // It is the code that says when: the file is there once it runs.
        while (::access((agent.directory() + "/runs").c_str(), F_OK) != 0)
            ::usleep(1000);
        EXPECT_THAT(why(CodeContexts(**other).run("one", "1", {}, {}, soon())),
                    HasSubstr("another client has it"));
        EXPECT_TRUE(CodeContexts(**other).interrupt("one", soon()));
    });
    const Ran ran =
        run("print('begun')\nopen('" + agent.directory() + "/runs', 'w')\nwhile True: pass");
    EXPECT_EQ(ran.result.end, RunEnd::interrupted);
    EXPECT_EQ(ran.result.error->name, "KeyboardInterrupt");
    EXPECT_EQ(ran.out, "begun\n");
    interrupting.join();
    EXPECT_TRUE(contexts().interrupt("one", soon())) << "with nothing to interrupt";
    EXPECT_EQ(run("kept").plain, "5");
}

TEST_F(PythonContext, TimesOut) {
    Ran ran = run("import time\ntime.sleep(1000)", "one", 300ms);
    EXPECT_EQ(ran.result.end, RunEnd::timed_out);
    EXPECT_FALSE(ran.result.context_lost);
    EXPECT_EQ(run("time.__name__").plain, "'time'");
    ran =
        run("while True:\n  try: time.sleep(1000)\n  except KeyboardInterrupt: pass", "one", 300ms);
    EXPECT_EQ(ran.result.end, RunEnd::timed_out);
    EXPECT_TRUE(ran.result.context_lost);
    EXPECT_THAT(why(contexts().run("one", "1", {}, {}, soon())),
                StartsWith("not_found: context 'one'"));
}

TEST_F(PythonContext, SaysThatItsInterpreterIsGone) {
    const Ran ran = run("print('last words', flush=True)\nimport os; os.kill(os.getpid(), 9)");
    EXPECT_EQ(ran.result.end, RunEnd::lost);
    EXPECT_TRUE(ran.result.context_lost);
    EXPECT_EQ(contexts().list(soon())->size(), 0u);
}

TEST_F(PythonContext, AreSeveralInOneSandbox) {
    create("two", ContextLanguage::python);
    run("x = 1");
    run("x = 2", "two");
    EXPECT_EQ(run("x").plain, "1");
    EXPECT_EQ(run("x", "two").plain, "2");
    EXPECT_EQ(contexts().list(soon())->size(), 2u);
    EXPECT_THAT(
        why(contexts().create({.name = "two", .language = ContextLanguage::javascript}, soon())),
        StartsWith("already_exists: context 'two'"));
    EXPECT_THAT(why(contexts().create({.name = "a.b"}, soon())),
                StartsWith("invalid_argument: context 'a.b'"));
    EXPECT_THAT(why(contexts().create({.name = "none", .program = "no-such-python"}, soon())),
                StartsWith("not_found: context 'none'"));
    EXPECT_THAT(why(contexts().create({.name = "false", .program = "false"}, soon())),
                HasSubstr("its interpreter ended with status 1"));
    EXPECT_TRUE(contexts().remove("two", soon()));
    EXPECT_THAT(why(contexts().remove("two", soon())), StartsWith("not_found"));
    EXPECT_THAT(why(contexts().run("one", "'\xff'", {}, {}, soon())), HasSubstr("is no UTF-8"));
}

// What a hostile program in the guest may answer.
TEST_F(PythonContext, DoesNotBelieveAnswersOfOtherShapes) {
    const std::string get_answers =
        "import gc\nd = [o for o in gc.get_objects() if type(o).__name__ == 'Driver'][0]\n";
    EXPECT_EQ(run(get_answers +
                  "d.answer('stdout', text=7); d.answer('result', data=[1]); d.answer(5); 'x'")
                  .plain,
              "'x'");
    EXPECT_THAT(
        why(contexts().run("one", get_answers + "import os; os.write(d.answers, b'no json\\n')", {},
                           {}, soon())),
        StartsWith("corrupt: context 'one': an answer that is no JSON object"));
}

class NodeContext : public ContextFixture {
  protected:
    void SetUp() override {
        ProcessFixture::SetUp();
        if (!has_program("node"))
            GTEST_SKIP() << "no node here";
        create("one", ContextLanguage::javascript);
    }
};

TEST_F(NodeContext, KeepsItsState) {
    run("const x = 6; let y = 1; function f(z) { return x * z }");
    const Ran ran = run("console.log('out'); console.error('err'); f(7)");
    EXPECT_EQ(ran.out, "out\n");
    EXPECT_EQ(ran.err, "err\n");
    EXPECT_EQ(ran.plain, "42");
    EXPECT_EQ(run("await Promise.resolve(y + _)").plain, "43");
    EXPECT_EQ(
        run("require('child_process').execSync('echo sub', {stdio: 'inherit'}); undefined").out,
        "sub\n");
}

TEST_F(NodeContext, TellsErrorsAndRichResults) {
    const Ran bad = run("function g() { throw new TypeError('bad') }\ng()");
    EXPECT_EQ(bad.result.end, RunEnd::error);
    EXPECT_EQ(bad.result.error->name, "TypeError");
    EXPECT_THAT(bad.result.error->traceback, HasSubstr("at g (run-1.js:1:"));
    const Ran rich = run("display({a: [1]}); ({_repr_png_() { return Buffer.from('png') }})");
    EXPECT_EQ(rich.result.result->at("image/png"), to_base64("png"));
    ASSERT_EQ(rich.result.displays.size(), 1u);
    EXPECT_EQ(rich.result.displays[0].at("application/json"), "{\"a\":[1]}");
}

TEST_F(NodeContext, IsInterruptedAndTimesOut) {
    run("globalThis.kept = 5; undefined");
    EXPECT_EQ(run("for (;;);", "one", 500ms).result.end, RunEnd::timed_out);
    EXPECT_EQ(run("await new Promise(() => {})", "one", 500ms).result.end, RunEnd::timed_out);
    EXPECT_EQ(run("kept").plain, "5");
    EXPECT_EQ(run("process.exit(3)").result.end, RunEnd::lost);
}

}  // namespace
}  // namespace spore
