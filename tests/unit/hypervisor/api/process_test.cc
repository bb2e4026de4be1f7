// Processes of the public API, over a real agent.

#include <gmock/gmock.h>

#include "tests/unit/hypervisor/api/fake_sandbox.h"

namespace spore {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

class LibraryProcess : public SandboxFixture {};

TEST_F(LibraryProcess, OutlivesTheConnectionAndIsFoundAgain) {
    const auto started =
        // To the end of its stdin: else it might be gone before it has been told that all was
        // taken.
        sandbox->start({.command = Command::shell(
                            "echo up; read line; cat >/dev/null; echo got $line; exit 4"),
                        .name = "worker",
                        .with_stdin = true},
                       soon());
    ASSERT_TRUE(started) << started.error().message;
    EXPECT_EQ(started->name(), "worker");
    EXPECT_EQ(started->wait_line("u[p]$", true, soon())->text, "up");
    fake.cut();
    (void)sandbox->ping(soon());
    const auto found = sandbox->find_process("worker", soon());
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->id(), started->id());
    const auto info = found->info(soon());
    ASSERT_TRUE(info);
    EXPECT_FALSE(info->exit);
    EXPECT_GT(info->pid, 0);
    EXPECT_EQ(info->argv.front(), "/bin/sh");
    EXPECT_LT(std::chrono::abs(std::chrono::system_clock::now() - info->started), 10min);
    EXPECT_EQ(found->remove(soon()).error().code, Code::unavailable) << "it runs";
    EXPECT_TRUE(found->input(std::string("word\n"), true, soon()).value());
    const auto end = found->wait(soon());
    ASSERT_TRUE(end) << end.error().message;
    EXPECT_EQ(end->status, 4);
    std::string log;
    ASSERT_TRUE(found->logs(
        [&](const Process::Output& output) -> Status {
            log.append(reinterpret_cast<const char*>(output.bytes.data()), output.bytes.size());
            return {};
        },
        true, 0, soon()));
    EXPECT_EQ(log, "up\ngot word\n");
    EXPECT_EQ(found->info(soon())->exit->status, 4);
    EXPECT_EQ(sandbox->processes(soon())->size(), 1u);
    EXPECT_TRUE(found->remove(soon()));
    EXPECT_EQ(found->info(soon()).error().code, Code::not_found);
}

TEST_F(LibraryProcess, SaysWhatCannotBe) {
    const auto absent = sandbox->start({.command = {.argv = {"no-such-program"}}}, soon());
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().code, Code::not_found);
    EXPECT_THAT(absent.error().message, HasSubstr("no-such-program"));
    const auto denied = sandbox->start({.command = {.argv = {"/etc/passwd"}}}, soon());
    ASSERT_FALSE(denied);
    EXPECT_EQ(denied.error().code, Code::permission_denied);
    EXPECT_EQ(sandbox->find_process("nobody", soon()).error().code, Code::not_found);
    const auto one = sandbox->start({.command = {.argv = {"sleep", "1000"}}, .name = "n"}, soon());
    ASSERT_TRUE(one);
    const auto twice = sandbox->start({.command = {.argv = {"true"}}, .name = "n"}, soon());
    ASSERT_FALSE(twice);
    EXPECT_EQ(twice.error().code, Code::already_exists);
    EXPECT_TRUE(one->signal(SIGTERM, false, soon()));
    EXPECT_EQ(one->wait(soon())->signal, SIGTERM);
    const auto line = one->wait_line("never", false, soon());
    ASSERT_FALSE(line);
    EXPECT_EQ(line.error().code, Code::unavailable);
}

TEST_F(LibraryProcess, WaitsEndAtTheDeadlineAndWhenCancelled) {
    const auto process = sandbox->start({.command = {.argv = {"sleep", "1000"}}}, soon());
    ASSERT_TRUE(process);
    EXPECT_EQ(process->wait(Call::within(20ms)).error().code, Code::timeout);
    std::stop_source stop;
    std::jthread canceller([&] {
        std::this_thread::sleep_for(20ms);
        stop.request_stop();
    });
    const Call cancelled = {.stop = stop.get_token()};
    EXPECT_EQ(process->wait(cancelled).error().code, Code::unavailable);
    EXPECT_EQ(process->wait_port({.port = 1}, cancelled).error().code, Code::unavailable);
    EXPECT_FALSE(process->info(soon())->exit) << "waiting for it has no effect on it";
    EXPECT_TRUE(process->signal(SIGKILL, false, soon()));
    const auto end = process->wait_port({.port = 1}, soon());
    ASSERT_TRUE(end) << end.error().message;
    ASSERT_TRUE(*end);
    EXPECT_EQ((*end)->signal, SIGKILL);
}

}  // namespace
}  // namespace spore
