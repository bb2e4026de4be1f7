#pragma once

// A program that is measured beside Spore, and the ends of its pipes.

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore::bench {

// Killed and reaped when it goes out of scope.
class Child {
  public:
    // `words[0]` is the program. Its standard error is ours, its standard input is the file
    // `input`, or a pipe if there is none.
    static Result<Child> start(const std::vector<std::string>& words,
                               const std::string& input = "");
    ~Child();
    Child(Child&& other) noexcept;
    Child& operator=(Child&&) = delete;

    pid_t pid() const { return pid_; }
    Status write(const std::string& text);
    // Up to and without a newline.
    Result<std::string> read_line();
    // Reads, and drops, until `byte` has come. Errors: timeout, unavailable if it ends.
    Status wait_for(char byte, std::chrono::milliseconds limit);
    // Its standard output, for a caller that reads on its own.
    int output() const { return out_.get(); }
    Status end();  // kills and reaps it

  private:
    Child() = default;
    pid_t pid_ = -1;
    UniqueFd in_, out_;
    std::string rest_;
};

}  // namespace spore::bench
