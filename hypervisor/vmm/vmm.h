#pragma once

// One VM's process: its files, its loop, its machine, and what serves them.

#include <array>
#include <memory>
#include <optional>

#include "hypervisor/vmm/console.h"
#include "hypervisor/vmm/machine.h"
#include "hypervisor/vmm/options.h"
#include "hypervisor/vmm/snapshot_files.h"

namespace spore {

// Where the pages that a clone has touched are told from, and told to, at its end.
struct WorkingSetFiles {
    UniqueFd pagemap;  // /proc/self/pagemap
    UniqueFd file;     // empty
};

// What a process that restores has opened before its jail closes.
struct VmmFiles {
    CloneFiles clone;
    Console::Output console;
    UniqueFd control;          // bound (bind_control_socket); none: no control socket
    std::string control_path;  // to remove at the end; empty: somebody else does that
    MadeFiles made;            // the control socket's file
    // Its other end is held by whoever made this clone ahead of demand: when that is gone before
    // the clone first runs, the clone goes too. None: nobody does.
    UniqueFd lease;
    std::optional<WorkingSetFiles> working_set;
};

// Loop thread: the one that makes it.
class Vmm {
  public:
    // `log`: takes a line about what its guest did, seldom (base/log_limits.h).
    using Log = VirtioDevice::OnFailure;
    Vmm(StageTimer& stages, Log log) : stages_(stages), log_(std::move(log)) {}
    ~Vmm();

    // Boots the machine that `options` describe and serves it to its end. The exit status is for
    // how the VM ended.
    Result<int> boot(const VmmOptions& options, UniqueFd ready);
    // The same of a clone.
    Result<int> restore(Kvm kvm, LoadedSnapshot snapshot, VmmFiles files, CloneStart start,
                        UniqueFd ready);

    // Makes the loop with its ring, if restore() is to find them: where no thread may make one any
    // more.
    Status begin();
    // How the VM ended.
    const VmExit& exit() const { return exit_; }

  private:
    Status boot_machine(const VmmOptions& options);
    Status restore_machine(Kvm kvm, LoadedSnapshot snapshot, VmmFiles& files, CloneStart start);
    void listen_to_machine();
    Status serve_control(UniqueFd socket, const std::string& path);
    Status serve_signals(bool interactive);
    void watch_lease(UniqueFd lease);
    Result<int> serve(Status status, UniqueFd ready);
    Status record_working_set() const;
    Result<int> report_end() const;

    StageTimer& stages_;
    Log log_;
    std::unique_ptr<EventLoop> loop_;
    std::unique_ptr<Console> console_;
    RingFile signals_;
    std::array<std::byte, 128> signal_info_ = {};
    Operation signal_read_{[this](int32_t result) {
        if (result > 0)
            machine_->control_quit();
    }};
    RingFile lease_;
    std::array<std::byte, 1> lease_byte_ = {};
    bool leased_ = false;
    Operation lease_read_{[this](int32_t) {
        if (leased_ && machine_ && !machine_->has_begun())
            machine_->control_quit();
    }};
    std::unique_ptr<ControlServer> control_;
    std::unique_ptr<Machine> machine_;
    std::optional<Status> started_;  // a clone: how that went
    VmExit exit_;
    std::optional<WorkingSetFiles> working_set_files_;
    uint64_t snapshot_unix_ns_ = 0;  // when the snapshot was made
};

}  // namespace spore
