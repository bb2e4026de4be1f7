#pragma once

// QEMU's microvm machine, going on from a saved state in a page-cached file (-incoming), with the
// same kernel, agent and memory. The agent is reached through vhost-vsock.

#include <filesystem>
#include <string>

#include "bench/child.h"

namespace spore::bench {

struct QemuGuest {
    std::string kernel, initrd, boot_args, drive;
    unsigned memory_mib = 256;
};

class Qemu {
  public:
    static Result<Qemu> create(const std::string& program, const QemuGuest& guest,
                               std::filesystem::path directory);

    // Boots it; `wait_ready` is given the guest's CID; then writes its state to a file.
    template <typename WaitReady>
    Status save(WaitReady wait_ready) {
        auto process = TRY(Child::start(words_));
        TRY(wait_ready(kCid));
        return finish_save(process);
    }
    // A process that goes on from that state: start to end of it is what is measured.
    Result<Child> restore() const;

    static constexpr unsigned kCid = 4242;

  private:
    Qemu() = default;
    Status finish_save(Child& process) const;
    std::vector<std::string> words_;
    std::filesystem::path directory_;
};

// A stream to the agent's port of the guest `cid`, trying again until somebody listens.
Result<UniqueFd> connect_vsock(unsigned cid, unsigned port,
                               std::chrono::steady_clock::time_point deadline);

}  // namespace spore::bench
