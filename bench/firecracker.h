#pragma once

// Firecracker on the same /dev/kvm, restoring the same guest from a snapshot of its own. When the
// guest first exits is seen from outside: its only instruction writes a byte to the serial port,
// which Firecracker writes to its standard output, which we wait for; the write and our waking up
// (tens of µs) are Firecracker's to bear.

#include <filesystem>
#include <functional>
#include <string>

#include "bench/child.h"

namespace spore::bench {

struct FirecrackerGuest {
    std::string kernel, initrd, boot_args, drive;  // empty: none
    unsigned memory_mib = 128;
    bool pci = false;  // its devices on PCI, for kernels that find them there only
};

class Firecracker {
  public:
    // Waits until the guest is to be snapshotted; `vsock` leads to it.
    using Ready = std::function<Status(Child& process, const std::filesystem::path& vsock)>;

    // Boots `guest` with 1 vCPU and a vsock device, and snapshots it into `directory`.
    static Result<Firecracker> create(std::string program, const FirecrackerGuest& guest,
                                      std::filesystem::path directory, const Ready& ready);

    struct Restored {
        Child process;
        uint64_t begun_ns;  // of the request; with_start: before the process was started for it
        UniqueFd api;       // where the answer comes
    };
    // Has sent the request to load the snapshot and go on.
    Result<Restored> restore(bool with_start);
    // µs from the request to the freestanding guest's first exit.
    Result<double> restore_to_first_exit(bool with_start);

    std::filesystem::path vsock() const { return directory_ / "v"; }

  private:
    Firecracker(std::string program, std::filesystem::path directory)
        : program_(std::move(program)), directory_(std::move(directory)) {}
    Status make_snapshot(const FirecrackerGuest& guest, const Ready& ready);
    Result<Child> start(const std::filesystem::path& config = {}) const;
    Result<UniqueFd> connect() const;
    Status ask(const std::string& method, const std::string& path, const std::string& body) const;

    std::string program_;
    std::filesystem::path directory_;
    bool pci_ = false;
};

// Until the freestanding guest (bench/guest/guest.c) runs its loop.
Status freestanding_guest_runs(Child& process, const std::filesystem::path& vsock);
// What Firecracker says to a request. Errors: unavailable, with its words.
Status firecracker_agrees(int api);

}  // namespace spore::bench
