#pragma once

// What the tests of processes have in common.

#include <gmock/gmock.h>

#include <fstream>
#include <thread>

#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/agent_process.h"
#include "tests/unit/agent/exec_fixture.h"

namespace spore {

class ProcessFixture : public testing::Test {
  protected:
    void SetUp() override { connect(); }

    void connect() {
        auto made = AgentConnection::over(agent.client());
        ASSERT_TRUE(made) << made.error().message;
        connection = std::move(*made);
        processes.emplace(*connection);
    }
    // Its ID.
    ProcessName start(ProcessSpec spec) {
        auto started = processes->start(spec, soon());
        EXPECT_TRUE(started) << started.error().message;
        EXPECT_NE(started ? started->id : 0, 0u);
        return {.id = started ? started->id : 0, .name = {}};
    }
    ProcessName start_script(const std::string& script) {
        return start({.command = shell(script)});
    }
    ExecResult wait(const ProcessName& process) {
        auto end = processes->wait(process, {}, soon());
        EXPECT_TRUE(end) << end.error().message;
        return end ? *end : ExecResult{};
    }
    std::string logs(const ProcessName& process, bool follow = false) {
        std::string text;
        const Status done = processes->logs(
            process, {.follow = follow},
            [&](const ProcessOutput& output) { return collect(text, output.bytes); }, soon());
        EXPECT_TRUE(done) << done.error().message;
        return text;
    }
    // Waits until that is all it has written.
    void wait_for_logs(const ProcessName& process, size_t bytes) {
        const auto deadline = soon();
        while (logs(process).size() < bytes) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline) << logs(process);
            ::usleep(1000);
        }
    }
    // The words of one that cannot be had.
    template <typename T>
    static std::string why(const Result<T>& result) {
        return result ? "no error"
                      : std::string(code_name(result.error().code)) + ": " + result.error().message;
    }

    RunningAgent agent;
    std::shared_ptr<AgentConnection> connection;
    std::optional<AgentProcesses> processes;
};

}  // namespace spore
