#include "hypervisor/cli/output.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "hypervisor/base/one_line.h"

namespace spore::cli {

int report(const Globals& globals, const Error& error) {
    if (globals.json) {
        nlohmann::json document;
        document["error"] = {{"code", code_name(error.code)},
                             {"message", error.message},
                             {"details", nlohmann::json::object()}};
        print_json(document);
    }
    std::fprintf(stderr, "spore: %s\n", one_line(error.message).c_str());
    return exit_status(error.code);
}

void print_json(const nlohmann::json& document) {
    // What is not UTF-8 (a guest may say anything) is replaced, never thrown on.
    std::string text = document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
    std::printf("%s\n", text.c_str());
}

namespace {

// Characters, not bytes: "µs" is two of the one and three of the other.
size_t width_of(const std::string& text) {
    return static_cast<size_t>(std::ranges::count_if(
        text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

void Table::print() const {
    std::vector<size_t> widths;
    for (const auto& row : rows_) {
        widths.resize(std::max(widths.size(), row.size()));
        for (size_t column = 0; column < row.size(); column++)
            widths[column] = std::max(widths[column], width_of(row[column]));
    }
    for (const auto& row : rows_) {
        std::string line;
        for (size_t column = 0; column < row.size(); column++) {
            line += row[column];
            if (column + 1 < row.size())
                line.append(widths[column] - width_of(row[column]) + 2, ' ');
        }
        std::printf("%s\n", line.c_str());
    }
}

ProgressLine::ProgressLine(const Globals& globals)
    : terminal_(::isatty(STDERR_FILENO) != 0), silent_(globals.quiet) {}

ProgressLine::~ProgressLine() {
    if (shown_ && terminal_)
        std::fprintf(stderr, "\r\033[K");
}

void ProgressLine::show(const std::string& text) {
    if (silent_ || !terminal_)
        return;
    std::string line = text.substr(0, text.find('\n')).substr(0, 120);
    std::ranges::replace_if(
        line, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
    std::fflush(stderr);
    shown_ = true;
}

std::string human_bytes(uint64_t bytes) {
    const char* suffixes = "KMGT";
    if (bytes < 1024)
        return std::to_string(bytes);
    double value = static_cast<double>(bytes);
    int index = -1;
    while (value >= 1024 && index < 3) {
        value /= 1024;
        index++;
    }
    char text[32];
    std::snprintf(text, sizeof(text),
                  value < 10 && value != static_cast<int>(value) ? "%.1f%c" : "%.0f%c", value,
                  suffixes[index]);
    return text;
}

std::string human_age(int64_t unix_ms) {
    auto now = std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count();
    int64_t seconds = std::max<int64_t>(0, now - unix_ms / 1000);
    if (seconds < 120)
        return std::to_string(seconds) + " s";
    if (seconds < 7200)
        return std::to_string(seconds / 60) + " min";
    if (seconds < 172'800)
        return std::to_string(seconds / 3600) + " h";
    return std::to_string(seconds / 86'400) + " d";
}

std::string human_us(uint64_t microseconds) {
    char text[32];
    if (microseconds < 1000)
        std::snprintf(text, sizeof(text), "%llu µs", static_cast<unsigned long long>(microseconds));
    else if (microseconds < 1'000'000)
        std::snprintf(text, sizeof(text), "%.1f ms", static_cast<double>(microseconds) / 1e3);
    else
        std::snprintf(text, sizeof(text), "%.2f s", static_cast<double>(microseconds) / 1e6);
    return text;
}

}  // namespace spore::cli
