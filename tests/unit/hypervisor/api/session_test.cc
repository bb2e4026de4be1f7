// Sessions and code contexts of the public API, over a real agent.

#include <gmock/gmock.h>

#include "tests/unit/hypervisor/api/fake_sandbox.h"

namespace spore {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

class LibrarySession : public SandboxFixture {};

TEST_F(LibrarySession, KeepsItsStateAndIsFoundAgain) {
    const auto session = sandbox->create_session(
        {.name = "s", .environment = {{"GIVEN", "1"}}, .cwd = "/usr"}, soon());
    ASSERT_TRUE(session) << session.error().message;
    EXPECT_EQ(session->name(), "s");
    ASSERT_TRUE(session->run("cd lib; export A='x y'; f() { echo f $1; }", {}, soon()));
    const auto kept = session->capture("pwd; echo \"$A $GIVEN\"; f 2; exit 3", soon());
    ASSERT_TRUE(kept) << kept.error().message;
    EXPECT_EQ(kept->out, "/usr/lib\nx y 1\nf 2\n");
    EXPECT_EQ(kept->exit.status, 3);
    EXPECT_TRUE(kept->exit.session_ended);
    const auto found = sandbox->find_session("s", soon());
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->capture("pwd; echo \"${A-unset} $GIVEN\"", soon())->out,
              "/usr/lib\nunset 1\n");
    const auto info = found->info(soon());
    ASSERT_TRUE(info);
    EXPECT_EQ(info->cwd, "/usr/lib");
    EXPECT_FALSE(info->busy);
    EXPECT_EQ(sandbox->sessions(soon())->size(), 1u);
    EXPECT_TRUE(found->remove(soon()));
    EXPECT_EQ(found->info(soon()).error().code, Code::not_found);
    EXPECT_EQ(session->run("true", {}, soon()).error().code, Code::not_found);
    EXPECT_EQ(sandbox->find_session("s", soon()).error().code, Code::not_found);
    EXPECT_TRUE(sandbox->sessions(soon())->empty());
}

TEST_F(LibrarySession, SaysWhatCannotBe) {
    ASSERT_TRUE(sandbox->create_session({.name = "s"}, soon()));
    EXPECT_EQ(sandbox->create_session({.name = "s"}, soon()).error().code, Code::already_exists);
    EXPECT_EQ(sandbox->create_session({.name = "a/b"}, soon()).error().code,
              Code::invalid_argument);
    EXPECT_EQ(sandbox->create_session({.name = "t", .cwd = "/no/such"}, soon()).error().code,
              Code::not_found);
}

TEST_F(LibrarySession, ALineHasEnvironmentDirectoryInputAndTimeOfItsOwn) {
    const auto session = sandbox->create_session({.name = "own", .cwd = "/"}, soon());
    ASSERT_TRUE(session) << session.error().message;
    std::string out;
    Streams streams;
    streams.out = [&](std::span<const std::byte> bytes) { return collect(out, bytes); };
    const auto own = session->run({.argv = {"pwd; echo $A; cat"},
                                   .environment = {{"A", "b c"}},
                                   .cwd = "/usr",
                                   .input = "given"},
                                  streams, soon());
    ASSERT_TRUE(own) << own.error().message;
    EXPECT_EQ(out, "/usr\nb c\ngiven");
    EXPECT_EQ(session->capture("pwd; echo ${A-unset}", soon())->out, "/\nunset\n");
    const auto late = session->run({.argv = {"sleep 1000"}, .timeout = 100ms}, {}, soon());
    ASSERT_TRUE(late) << late.error().message;
    EXPECT_EQ(late->kind, Exit::Kind::timed_out);
    for (const Command& wrong :
         {Command{.argv = {"true", "true"}}, Command{.argv = {"true"}, .user = "root"},
          Command{.argv = {"true"}, .terminal = Command::Terminal{}}}) {
        const auto refused = session->run(wrong, {}, soon());
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Code::invalid_argument) << refused.error().message;
    }
}

TEST_F(LibrarySession, ALineEndsWithItsCallAndTheNextOneRuns) {
    const auto session = sandbox->create_session({.name = "s"}, soon());
    ASSERT_TRUE(session);
    EXPECT_EQ(session->run("sleep 1000", {}, Call::within(50ms)).error().code, Code::timeout);
    std::stop_source stop;
    Streams streams;
    streams.out = [&](std::span<const std::byte>) -> Status {
        stop.request_stop();
        return {};
    };
    const auto stopped = session->run("echo up; sleep 1000", streams, {.stop = stop.get_token()});
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code, Code::unavailable);
    EXPECT_EQ(session->capture("echo on", soon())->out, "on\n");
}

bool has_program(const std::string& name) {
    return ::system(("command -v " + name + " >/dev/null 2>&1").c_str()) == 0;
}

class LibraryContext : public SandboxFixture {
  protected:
    void SetUp() override {
        SandboxFixture::SetUp();
        if (!has_program("python3"))
            GTEST_SKIP() << "no python3 here";
        auto made = sandbox->create_context({.name = "c", .environment = {{"A", "b"}}}, soon());
        ASSERT_TRUE(made) << made.error().message;
        context.emplace(std::move(*made));
    }

    std::optional<CodeContext> context;
};

using End = CodeContext::Outcome::End;

TEST_F(LibraryContext, KeepsItsStateAndTellsRichValues) {
    ASSERT_TRUE(context->run("import os\nx = 6", {}, {}, soon()));
    std::string out, err;
    std::vector<RichValue> shown;
    const CodeStreams streams = {.out = [&](std::string_view bytes) -> Status {
                                     out += bytes;
                                     return {};
                                 },
                                 .err = [&](std::string_view bytes) -> Status {
                                     err += bytes;
                                     return {};
                                 },
                                 .display = [&](const RichValue& value) -> Status {
                                     shown.push_back(value);
                                     return {};
                                 }};
    const auto ran = context->run(
        "import sys\nprint(os.environ['A']); print('e', file=sys.stderr); display({'k': 1})\nx * 7",
        streams, 60s, soon());
    ASSERT_TRUE(ran) << ran.error().message;
    EXPECT_EQ(ran->end, End::ok);
    ASSERT_TRUE(ran->value);
    EXPECT_EQ(ran->value->at("text/plain"), "42");
    EXPECT_EQ(out, "b\n");
    EXPECT_EQ(err, "e\n");
    ASSERT_EQ(ran->displays.size(), 1u);
    EXPECT_EQ(shown, ran->displays);
    EXPECT_EQ(context->language(), CodeContext::Language::python);

    const auto thrown = context->run("1 / 0", {}, {}, soon());
    ASSERT_TRUE(thrown);
    EXPECT_EQ(thrown->end, End::error);
    ASSERT_TRUE(thrown->error);
    EXPECT_EQ(thrown->error->name, "ZeroDivisionError");
    EXPECT_THAT(thrown->error->traceback, HasSubstr("line 1"));
}

TEST_F(LibraryContext, IsFoundAgainAndRemoved) {
    const auto found = sandbox->find_context("c", soon());
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->name(), "c");
    EXPECT_EQ(sandbox->contexts(soon())->size(), 1u);
    EXPECT_EQ(sandbox->create_context({.name = "c"}, soon()).error().code, Code::already_exists);
    EXPECT_EQ(sandbox->create_context({.name = "d", .program = "no-such"}, soon()).error().code,
              Code::not_found);
    ASSERT_TRUE(found->remove(soon()));
    EXPECT_EQ(sandbox->find_context("c", soon()).error().code, Code::not_found);
    EXPECT_EQ(found->run("1", {}, {}, soon()).error().code, Code::not_found);
}

TEST_F(LibraryContext, ARunEndsWithItsTimeItsCallOrAnInterrupt) {
    const auto late = context->run("import time\ntime.sleep(1000)", {}, 50ms, soon());
    ASSERT_TRUE(late) << late.error().message;
    EXPECT_EQ(late->end, End::timed_out);
    EXPECT_FALSE(late->context_lost);
    EXPECT_EQ(context->run("time.sleep(1000)", {}, {}, Call::within(200ms)).error().code,
              Code::timeout);
    EXPECT_EQ(context->run("6 * 7", {}, {}, soon())->value->at("text/plain"), "42")
        << "it was interrupted";
    const CodeStreams interrupting = {
        .out = [&](std::string_view) -> Status { return context->interrupt(soon()); }};
    const auto interrupted =
        context->run("print('up')\ntime.sleep(1000)", interrupting, {}, soon());
    ASSERT_TRUE(interrupted) << interrupted.error().message;
    EXPECT_EQ(interrupted->end, End::interrupted);
    const auto lost = context->run("import os; os._exit(3)", {}, {}, soon());
    ASSERT_TRUE(lost);
    EXPECT_EQ(lost->end, End::lost);
}

}  // namespace
}  // namespace spore
