#pragma once

// What an interpreter answers to one run: JSON, one document a line.
// UNTRUSTED BYTES: whatever runs in the guest can write them. Read as JSON of any shape, bounded.
// Fuzz target: tests/fuzz/fuzz_code_answers.cc.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "hypervisor/sandbox/code_context.h"

namespace spore {

class CodeAnswers {
  public:
    CodeAnswers(uint64_t run_id, const RunStreams& streams) : run_id_(run_id), streams_(streams) {}

    // The next bytes, up to the end of this run's answers. Errors: corrupt; a stream's.
    Status take(std::string_view bytes);
    // Some were lost before the next ones.
    void lost();

    // How it ended; nothing: it goes on.
    const std::optional<std::string>& status() const { return status_; }
    RunResult& result() { return result_; }

  private:
    Status take_line(std::string_view line);
    Status take_answer(const std::string& kind, const nlohmann::json& answer);

    uint64_t run_id_;
    const RunStreams& streams_;
    std::string line_;       // as far as it has come
    bool skipping_ = false;  // its begin was lost
    std::optional<std::string> status_;
    RunResult result_;
};

}  // namespace spore
