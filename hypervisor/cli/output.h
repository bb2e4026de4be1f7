#pragma once

// What a person or a program sees of a command: tables, JSON, progress, one-line errors.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore::cli {

// Options that every command has.
struct Globals {
    bool json = false;
    bool quiet = false;
};

// Prints `error` as the contract says ("spore: <what>: <why>", or a JSON object with --json) and
// returns the exit status for its code.
int report(const Globals& globals, const Error& error);

void print_json(const nlohmann::json& document);

// Columns as wide as their widest cell, two spaces between them.
class Table {
  public:
    explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
    void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
    void print() const;

  private:
    std::vector<std::vector<std::string>> rows_;
};

// One line on stderr that is written over as work goes on, on a terminal; else a line for each step
// when `verbose`, else nothing.
class ProgressLine {
  public:
    explicit ProgressLine(const Globals& globals);
    ~ProgressLine();
    void show(const std::string& text);

  private:
    bool terminal_;
    bool silent_;
    bool shown_ = false;
};

// "256M", "1.5G": binary, at most one decimal.
std::string human_bytes(uint64_t bytes);
// "3 min", "2 h": how long ago a Unix time in ms was.
std::string human_age(int64_t unix_ms);
// "812 µs", "4.2 ms".
std::string human_us(uint64_t microseconds);

// Exit statuses of `exec` for what is not the command's own (shared/cli.md).
inline constexpr int kExitTimedOut = 124;
inline constexpr int kExitSpore = 125;
inline constexpr int kExitNotExecutable = 126;
inline constexpr int kExitNotFound = 127;

}  // namespace spore::cli
