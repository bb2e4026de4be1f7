#pragma once

// Host programs that the attacking guest has to do with: on its vsock, and at the other end of its
// network card. Each has a thread of its own.

#include <atomic>
#include <filesystem>
#include <thread>

#include "hypervisor/base/unique_fd.h"

namespace spore::test {

class Peer {
  public:
    virtual ~Peer() = default;
    Peer(const Peer&) = delete;

    uint64_t bytes() const { return bytes_; }

  protected:
    Peer() = default;
    void start();
    // Derived classes call it first in their destructor.
    void stop();
    // Once and again until the end; waits 20 ms at most.
    virtual void turn() = 0;

    std::atomic<uint64_t> bytes_ = 0;  // that came from the guest

  private:
    std::atomic<bool> ends_ = false;
    std::thread thread_;
};

// Connects to a guest's port 1024 again and again, writes, reads what comes, and leaves.
class VsockPeer final : public Peer {
  public:
    // `path`: the device's socket.
    explicit VsockPeer(std::filesystem::path path);
    ~VsockPeer() override { stop(); }

  private:
    void turn() override;
    std::filesystem::path path_;
    unsigned rounds_ = 0;
};

// The other end of `--net socket=PATH`: sends frames of every size, and reads.
class NetPeer final : public Peer {
  public:
    explicit NetPeer(const std::filesystem::path& path);
    ~NetPeer() override { stop(); }

  private:
    void turn() override;
    UniqueFd listener_, connection_;
    unsigned frames_ = 0;
};

// Connects to the guest's agent port on the vsock at `path`; whether it was accepted within
// `limit_ms`.
bool vsock_answers(const std::filesystem::path& path, int limit_ms);

}  // namespace spore::test
