#pragma once

// Templates of the freestanding guest, and clones of them, with the real spore-vmm.

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/sandbox/vmm_process.h"

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

struct Clone {
    ProcessIdentity vmm;
    std::filesystem::path directory;
    uint64_t begun_ns = 0;  // CLOCK_MONOTONIC, all of them
    uint64_t built_ns = 0;
    uint64_t first_exit_ns = 0;
    std::vector<std::pair<std::string, uint64_t>> stages;  // each's end, in order; if asked for

    double b1_us() const { return static_cast<double>(built_ns - begun_ns) / 1000; }
    double b2_us() const { return static_cast<double>(first_exit_ns - begun_ns) / 1000; }
};

class CloneRig {
  public:
    struct Programs {
        std::string vmm;
        std::string guest;
    };
    // Works in `directory`, which it makes.
    static Result<std::unique_ptr<CloneRig>> create(Programs programs,
                                                    std::filesystem::path directory);

    // Boots the guest with every device, waits until its drivers are through, snapshots it.
    Status make_template(unsigned memory_mib);
    // The cold path: from the request a process, its jail, the clone. Any thread.
    Result<Clone> start_cold(unsigned memory_mib, bool with_stages = false);
    // Asks the VMM when its boundaries were. Waits until the guest has exited once.
    Status learn_boundaries(Clone& clone) const;
    // Off every measured part.
    Status end(const Clone& clone) const;

  private:
    CloneRig(Programs programs, std::filesystem::path directory)
        : programs_(std::move(programs)), directory_(std::move(directory)) {}
    Programs programs_;
    std::filesystem::path directory_;
    std::unique_ptr<NetPeer> peer_;
    std::map<unsigned, std::filesystem::path> templates_;
    std::atomic<unsigned> next_{0};
};

}  // namespace spore::bench
