#include "hypervisor/cli/file_output.h"

#include <unistd.h>

#include <ctime>

#include "hypervisor/cli/agent_link.h"

namespace spore::cli {

namespace {

constexpr std::chrono::seconds kShowAfter{2};
constexpr std::chrono::milliseconds kShowEvery{200};

std::string mode_text(uint32_t mode) {
    char text[8];
    std::snprintf(text, sizeof(text), "%04o", mode & 07777);
    return text;
}

std::string time_text(int64_t ns) {
    const time_t seconds = ns / 1'000'000'000;
    tm parts = {};
    char text[32];
    if (::localtime_r(&seconds, &parts) == nullptr ||
        std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &parts) == 0)
        return std::to_string(seconds);
    return text;
}

char kind_letter(FileKind kind) {
    return "?-dlpsbc"[static_cast<size_t>(kind)];
}

std::string name_of(const FileInfo& info) {
    return printable(info.path) +
           (info.kind == FileKind::symlink ? " -> " + printable(info.target) : "");
}

}  // namespace

nlohmann::json to_json(const FileInfo& info) {
    nlohmann::json document;
    set_bytes(document, "path", info.path);
    document["type"] = file_kind_name(info.kind);
    document["size"] = info.size;
    document["mode"] = mode_text(info.mode);
    document["uid"] = info.uid;
    document["gid"] = info.gid;
    document["mtime_ns"] = info.mtime_ns;
    document["links"] = info.links;
    document["inode"] = info.inode;
    if (info.kind == FileKind::symlink)
        set_bytes(document, "target", info.target);
    return document;
}

std::vector<std::string> row_of(const FileInfo& info) {
    return {kind_letter(info.kind) + mode_text(info.mode),
            std::to_string(info.uid) + ":" + std::to_string(info.gid), human_bytes(info.size),
            time_text(info.mtime_ns), name_of(info)};
}

void print_info(const FileInfo& info) {
    std::printf(
        "%s\n  type      %s\n  size      %llu\n  mode      %s\n  owner     %u:%u\n"
        "  modified  %s\n  links     %llu\n  inode     %llu\n",
        name_of(info).c_str(), std::string(file_kind_name(info.kind)).c_str(),
        static_cast<unsigned long long>(info.size), mode_text(info.mode).c_str(), info.uid,
        info.gid, time_text(info.mtime_ns).c_str(), static_cast<unsigned long long>(info.links),
        static_cast<unsigned long long>(info.inode));
}

std::string line_of(const FileChange& change) {
    std::string line = std::string(file_change_name(change.kind)) + " " + printable(change.path);
    if (change.kind == FileChange::Kind::moved)
        line += " -> " + printable(change.to);
    return line + (change.directory ? "/" : "");
}

nlohmann::json to_json(const FileChange& change) {
    nlohmann::json document = {{"event", file_change_name(change.kind)},
                               {"directory", change.directory}};
    set_bytes(document, "path", change.path);
    if (change.kind == FileChange::Kind::moved)
        set_bytes(document, "to", change.to);
    return document;
}

void print_line(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

std::string printable(std::string_view bytes) {
    nlohmann::json document;
    set_bytes(document, "text", bytes);
    const bool utf8 = document.contains("text");
    std::string text;
    for (const char each : bytes) {
        const auto byte = static_cast<unsigned char>(each);
        if (byte >= 0x20 && byte != 0x7f && (byte < 0x80 || utf8)) {
            text += each;
            continue;
        }
        char code[8];
        std::snprintf(code, sizeof(code), "\\x%02x", byte);
        text += code;
    }
    return text;
}

Status write_out(int fd, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(fd, bytes.data(), bytes.size());
        if (count < 0 && errno != EINTR)
            return fail_errno("standard output");
        bytes = bytes.subspan(count < 0 ? 0 : static_cast<size_t>(count));
    }
    return {};
}

ByteProgress::ByteProgress(const Globals& globals, bool to_stdout)
    : globals_(globals), wanted_(!to_stdout || ::isatty(STDOUT_FILENO) == 0) {}

void ByteProgress::show(uint64_t bytes, const std::string& words) {
    bytes_ = bytes;
    const auto now = Clock::now();
    if (!wanted_ || now - begun_ < kShowAfter || now - shown_ < kShowEvery)
        return;
    shown_ = now;
    if (!line_)
        line_.emplace(globals_);
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now - begun_).count();
    line_->show(words + human_bytes(bytes_) + ", " +
                human_bytes(bytes_ * 1000 / static_cast<uint64_t>(ms)) + "/s");
}

}  // namespace spore::cli
