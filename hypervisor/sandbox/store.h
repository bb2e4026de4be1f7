#pragma once

// Which sandboxes there are: one SQLite database that every spore process opens. Each change is a
// transaction, so a process may be killed at any moment.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"

struct sqlite3;

namespace spore {

enum class SandboxState {
    creating,  // someone is at it, or died at it
    running,
    destroying,
};
std::string_view state_name(SandboxState state);

struct SandboxRecord {
    std::string id;
    std::string template_name;
    SandboxState state = SandboxState::creating;
    int64_t created_unix_ms = 0;
    // The spore-vmm process, with its start time (/proc/PID/stat, field 22) so that a reused PID is
    // not taken for it; while creating, the process that creates. 0: none.
    int pid = 0;
    uint64_t pid_start_ticks = 0;
    std::map<std::string, std::string> labels;
    std::map<std::string, std::string> environment;
    std::string owner;
};

// One thread at a time.
class Store {
  public:
    // Errors: corrupt for what is no database of ours, version_mismatch for a newer one's.
    static Result<Store> open(const std::filesystem::path& path);
    Store(Store&& other) noexcept;
    Store& operator=(Store&& other) noexcept;
    ~Store();

    // Errors: already_exists, naming the ID.
    Status add(const SandboxRecord& record);
    // Replaces what is kept under record.id. Errors: not_found.
    Status update(const SandboxRecord& record);
    Status remove(const std::string& id);
    Result<std::optional<SandboxRecord>> find(const std::string& id);
    Result<std::vector<SandboxRecord>> list();

  private:
    explicit Store(sqlite3* database) : database_(database) {}
    sqlite3* database_ = nullptr;
};

}  // namespace spore
