#pragma once

// A pool's directory (pool.h): what is in it, whose it is, and how it is cleared. Nobody but
// pool*.cc includes this.

#include <filesystem>
#include <optional>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/sandbox/pool.h"

namespace spore {

// The names in it.
namespace pool_files {
inline constexpr const char* kInfo = "pool.json";
inline constexpr const char* kLock = "keeper.lock";
inline constexpr const char* kLog = "keeper.log";
inline constexpr const char* kMaking = "making-";  // a directory that is not a clone yet
}  // namespace pool_files

// Whether that is the name of a clone that waits.
bool is_clone(const std::string& name, CloneSource source);

// What a keeper has as long as it lives, and for a moment whoever clears up after one.
class KeeperLock {
  public:
    // Nothing if somebody else has it, or there is no pool. `create`: a keeper's, which begins one.
    static std::optional<KeeperLock> take(const std::filesystem::path& directory, bool create);

    KeeperLock(KeeperLock&&) = default;
    KeeperLock& operator=(KeeperLock&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~KeeperLock();
    // False once it was moved away.
    explicit operator bool() const { return bool(fd_); }

  private:
    explicit KeeperLock(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

// Whether somebody has the lock of the pool in `directory`.
bool keeper_lives(const std::filesystem::path& directory);

// Removes all clones that wait in `directory`, whose keeper is dead, but those that somebody is
// just taking.
Status clear_pool(const std::filesystem::path& directory);
// The same for one clone.
Status clear_clone(const std::filesystem::path& clone);
// The same if nobody has the lock.
Status clear_if_abandoned_pool(const std::filesystem::path& directory);
// Removes the whole of it. Errors: unavailable, if it has a keeper, or clones of it are being taken
// all the time.
Status remove_pool(const std::filesystem::path& directory);

}  // namespace spore
