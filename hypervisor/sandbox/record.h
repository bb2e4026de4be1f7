#pragma once

// What is known of a sandbox: a file in its directory. Which sandboxes there are is what
// directories there are, so creating one waits for no data base, and each change is one rename(2):
// a process may be killed at any moment.
//
//   sandboxes/.new-XXXX      on its way into being, locked by its creator
//   sandboxes/ID             locked by its creator until sandbox.json is in it
//   sandboxes/.gone-ID-XXXX  on its way out, locked by its destroyer
//
// A directory without its record that nobody locks is what somebody's death has left.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/network/policy.h"
#include "hypervisor/sandbox/quotas.h"
#include "hypervisor/sandbox/vmm_process.h"

namespace spore {

inline constexpr const char* kRecordFile = "sandbox.json";

struct SandboxRecord {
    std::string id;
    std::string template_name;
    int64_t created_unix_ms = 0;
    ProcessIdentity process;  // its spore-vmm
    std::map<std::string, std::string> labels;
    std::map<std::string, std::string> environment;
    std::string owner;
    std::optional<NetworkWords> network;  // if it has a card
    Quotas quotas;
};

// Puts the record into the sandbox's directory, whole or not at all.
Status save_record(const std::filesystem::path& directory, const SandboxRecord& record);
// Nothing if there is none (yet). Errors: corrupt, naming the file and the field.
Result<std::optional<SandboxRecord>> load_record(const std::filesystem::path& directory);

// A directory's lock: held as long as this lives, through renames; nobody's when its holder dies.
class DirectoryLock {
  public:
    // Nothing if somebody else holds it, or the directory is not there (any more).
    static std::optional<DirectoryLock> take(const std::filesystem::path& directory);

    DirectoryLock(DirectoryLock&&) = default;
    DirectoryLock& operator=(DirectoryLock&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~DirectoryLock();

    // Whether `directory` is (still) what this has locked.
    bool holds(const std::filesystem::path& directory) const;

  private:
    explicit DirectoryLock(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

}  // namespace spore
