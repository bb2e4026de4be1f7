#pragma once

// Templates of the freestanding guest, and clones of them, with the real spore-vmm.

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "bench/clone.h"
#include "bench/waiting_clones.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/sandbox/home.h"

namespace spore::bench {

// The other end of the guests' network cards: takes every connection and lets it be.
class NetPeer {
  public:
    static Result<std::unique_ptr<NetPeer>> create(const std::filesystem::path& path);
    ~NetPeer();
    const std::filesystem::path& path() const { return path_; }

  private:
    explicit NetPeer(std::filesystem::path path) : path_(std::move(path)) {}
    void accept_all();
    std::filesystem::path path_;
    UniqueFd socket_;
    std::vector<UniqueFd> peers_;
    std::thread thread_;
};

// How a clone comes to be.
enum class Path { cold, ready, parked };
const char* path_name(Path path);

class CloneRig {
  public:
    struct Programs {
        std::string vmm;
        std::string guest;
    };
    // Works in `directory`, which it makes.
    static Result<std::unique_ptr<CloneRig>> create(Programs programs,
                                                    std::filesystem::path directory);

    // Boots the guest with every device, waits until its drivers are through, snapshots it; starts
    // its zygote.
    Status make_template(unsigned memory_mib);
    // Off every measured part: as many wait for requests on that path. Nothing to do for cold.
    Status make_waiting(Path path, unsigned memory_mib, unsigned count, bool with_stages = false);
    // A request, up to the VMM's word that the machine runs. Any thread.
    Result<Clone> start(Path path, unsigned memory_mib, bool with_stages = false);

  private:
    struct Template {
        std::filesystem::path snapshot;
        std::optional<WaitingClones> zygote;
    };
    CloneRig(Programs programs, std::filesystem::path directory, Home home)
        : programs_(std::move(programs)),
          directory_(std::move(directory)),
          home_(std::move(home)) {}
    Result<std::filesystem::path> boot_and_snapshot(unsigned memory_mib);
    // `more`: options of its spore-vmm.
    Result<Clone> start_cold(const std::filesystem::path& snapshot,
                             const std::vector<std::string>& more);
    Status record_working_set(const std::filesystem::path& snapshot);
    std::filesystem::path base() const { return directory_ / "base.img"; }

    Programs programs_;
    std::filesystem::path directory_;
    Home home_;  // in directory_
    std::unique_ptr<NetPeer> peer_;
    std::map<unsigned, Template> templates_;
    std::mutex mutex_;  // of waiting_
    // By path, size, and whether they note their stages.
    std::map<std::tuple<Path, unsigned, bool>, std::vector<std::filesystem::path>> waiting_;
    std::atomic<unsigned> next_{0};
};

}  // namespace spore::bench
