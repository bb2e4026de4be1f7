#pragma once

// What a person or a program sees of a sandbox's files, whose names may be any bytes.

#include <chrono>
#include <optional>
#include <span>

#include "hypervisor/cli/output.h"
#include "hypervisor/sandbox/agent_files.h"

namespace spore::cli {

nlohmann::json to_json(const FileInfo& info);
// Mode, owner, size, time, name: of `spore file list`.
std::vector<std::string> row_of(const FileInfo& info);
void print_info(const FileInfo& info);

// "created a/b/", a directory with a slash behind it; "moved a -> b".
std::string line_of(const FileChange& change);
nlohmann::json to_json(const FileChange& change);
// At once, for who reads a pipe.
void print_line(const std::string& line);

// Control bytes as \xNN, so that a name cannot write to a terminal.
std::string printable(std::string_view bytes);

// All of it. Errors: the system call's.
Status write_out(int fd, std::span<const std::byte> bytes);

// "64M, 12M/s" on a terminal, from 2 s on. Nothing if the bytes go to that terminal themselves.
class ByteProgress {
  public:
    ByteProgress(const Globals& globals, bool to_stdout);
    void add(uint64_t bytes) { show(bytes_ + bytes, ""); }
    // So many by now.
    void show(uint64_t bytes, const std::string& words);

  private:
    using Clock = std::chrono::steady_clock;

    const Globals& globals_;
    bool wanted_;
    uint64_t bytes_ = 0;
    Clock::time_point begun_ = Clock::now();
    Clock::time_point shown_ = begun_;
    std::optional<ProgressLine> line_;
};

}  // namespace spore::cli
