#pragma once

// Runs a program as a user would, with everything it says kept and a limit on its time.

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hypervisor/base/unique_fd.h"

namespace spore::test {

struct Launch {
    std::string program;
    std::vector<std::string> arguments;                            // argv[1] on
    std::filesystem::path directory;                               // it starts there
    std::vector<std::pair<std::string, std::string>> environment;  // besides PATH
    // In the child before exec: system calls only; false: give up (exit 99).
    std::function<bool()> prepare;
};

struct Ended {
    bool timed_out = false;  // and killed
    int signal = 0;          // that ended it
    int status = 0;          // its exit status where no signal did
    std::string out;
    std::string err;

    std::string describe() const;
};

// A child process; killed and reaped when it goes out of scope.
class Process {
  public:
    using Limit = std::chrono::milliseconds;

    static Process start(const Launch& launch);
    ~Process();
    Process(Process&& other) noexcept;
    Process& operator=(Process&&) = delete;

    pid_t pid() const { return pid_; }
    // What it writes to descriptor 3 up to a newline or the end; nothing if the limit strikes.
    std::optional<std::string> ready_line(Limit limit);
    void terminate();  // SIGTERM
    Ended wait(Limit limit);

  private:
    Process() = default;
    pid_t pid_ = -1;
    UniqueFd out_, err_, ready_;
};

Ended run_process(const Launch& launch, Process::Limit limit = std::chrono::seconds(30));

}  // namespace spore::test
