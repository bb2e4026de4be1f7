#pragma once

// What the tests of commands have in common.

#include <fstream>

#include "tests/unit/agent/running_agent.h"

namespace spore {

class ExecFixture : public testing::Test {
  protected:
    RunningAgent agent;
    AgentClient client = agent.client();

    Outcome ok(const ExecRequest& request, ExecStreams streams = {}) {
        auto outcome = run(client, request, std::move(streams));
        EXPECT_TRUE(outcome) << outcome.error().message;
        return outcome ? std::move(*outcome) : Outcome{};
    }
    Error error_of(const ExecRequest& request) {
        auto outcome = run(client, request);
        EXPECT_FALSE(outcome);
        return outcome ? Error{} : outcome.error();
    }
};

inline std::string write_file(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
    return path;
}

// Whether a process that once was there has ended; waits for it.
inline bool ends(pid_t pid) {
    const auto deadline = soon();
    while (::kill(pid, 0) == 0) {
        // A zombie has ended too; who reaps it, if its parent died, is this machine's affair.
        std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
        std::string line;
        std::getline(stat, line);
        if (line.find(") Z") != std::string::npos)
            return true;
        if (std::chrono::steady_clock::now() > deadline)
            return false;
        ::usleep(2000);
    }
    return true;
}

}  // namespace spore
