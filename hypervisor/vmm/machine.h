#pragma once

// One virtual machine: memory, vCPUs, PCI bus and devices, and what becomes of it.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "devices/pci/bus.h"
#include "devices/serial/serial.h"
#include "devices/virtio/block.h"
#include "devices/virtio/net.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/vsock.h"
#include "hypervisor/base/stage_timer.h"
#include "hypervisor/io/event_loop.h"
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/kvm/vcpu.h"
#include "hypervisor/kvm/vm.h"
#include "hypervisor/memory/guest_memory.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/vmm/config.h"
#include "hypervisor/vmm/control_server.h"
#include "hypervisor/vmm/snapshot_files.h"
#include "hypervisor/vmm/vcpu_thread.h"
#include "schema/go.h"

namespace spore {

// How far a clone is taken before somebody asks for it: not at all, up to its first instruction, or
// up to the first step that needs the snapshot's state of it.
enum class CloneStart { run, built, prepared };

// Made, driven and destroyed on the loop thread; the vCPU threads come in through ExitHandler only,
// and the first of a clone's through begin_clone().
class Machine final : public ControlTarget,
                      public ExitHandler,
                      public MsiSink,
                      public DoorbellRegistry {
  public:
    // Called once on the loop thread when the VM has ended by itself.
    using OnEnd = std::function<void(const VmExit&)>;

    // A machine as `config` says, its kernel loaded, not running yet. Errors: those of the files
    // and of KVM; whatever was made is gone again then.
    static Result<std::unique_ptr<Machine>> boot(EventLoop& loop, const MachineConfig& config,
                                                 Serial::Sink console, OnEnd on_end);
    // A clone of `snapshot` with everything but what KVM has of it: memory and devices;
    // start_clone() makes the rest. Errors: corrupt, version_mismatch, those of the files. `stages`
    // outlives it.
    static Result<std::unique_ptr<Machine>> prepare_clone(EventLoop& loop, Kvm kvm,
                                                          LoadedSnapshot snapshot, CloneFiles files,
                                                          bool interactive_console,
                                                          StageTimer& stages, Serial::Sink console,
                                                          OnEnd on_end);
    // Its threads. The first vCPU's makes the VM, loads it (boundary B1) and runs, all at once or
    // up to where `start` says that it is to wait for its go: the least that a request can wait for
    // is one thread's waking up. `done` is called on the loop thread when the clone has come as far
    // as `start` says. Errors there: version_mismatch, KVM's; the machine is of no use then.
    void start_clone(CloneStart start, Done done);
    // Whether it has had its go. Any thread.
    bool has_begun() const { return begun_; }
    // Ends the VM: vCPU threads joined, devices drained. The loop has stopped by now or never ran.
    ~Machine() override;

    // Starts or continues the vCPUs and the devices of a machine that is built.
    void run();
    // Adds what is to be told of the other end of its serial port.
    using Counters = std::vector<std::pair<std::string, uint64_t>>;
    void count_console(std::function<void(Counters&)> count) { count_console_ = std::move(count); }
    // Has it told when the guest has broken a device (VirtioDevice::on_failure).
    void on_device_failure(const VirtioDevice::OnFailure& call);
    // Called once, when it runs for the first time.
    void on_first_run(std::function<void()> call) { on_first_run_ = std::move(call); }
    // What was made on disk for this machine (its disks' new tops) outlives it from here on. Until
    // then it goes with it: a machine that never came up leaves nothing behind.
    void keep_files() { made_files_.keep(); }
    const GuestMemory& memory() const { return memory_; }
    void push_input(std::span<const std::byte> bytes) { serial_.push_input(bytes); }

    // ControlTarget
    ControlTarget::Status control_status() override;
    void control_pause(Done done) override;
    void control_resume(Done done) override;
    void control_snapshot(const std::string& directory, std::optional<VsockPorts> carry,
                          Done done) override;
    spore::Status control_limits(const Limits& limits) override;
    void control_quit() override;

  private:
    enum class RunState { prepared, paused, running, pausing, ended };  // booted: made paused

    struct DiskDevice {
        DiskState state;
        std::string top;  // of a layered disk: the file that takes the writes
        VirtioBlock* device;
    };

    struct SavedCpus {  // of a prepared clone
        kvm_clock_data clock;
        std::vector<VcpuState> vcpus;
    };
    struct StandingTime {  // of a clone: what it goes on from
        kvm_clock_data clock;
        std::vector<VcpuTime> vcpus;
    };
    struct WaitingDoorbell {
        GuestAddress address;
        int eventfd;
    };

    Machine(EventLoop& loop, MachineConfig config, Serial::Sink console, OnEnd on_end);

    // machine_build.cc
    spore::Status build_vm();
    spore::Status add_devices();
    spore::Status add_disk(const DiskConfig& config);
    spore::Status add_network(const NetworkConfig& network, UniqueFd file);
    spore::Status add_vsock(uint64_t cid, UniqueFd listener);
    spore::Status plug(std::unique_ptr<VirtioDevice> device);
    spore::Status make_vcpus();
    void make_threads();
    void attach_threads(size_t first);
    spore::Status load_boot_state();

    // machine_start.cc
    bool begin_clone(VcpuThread& first);
    bool wait_for_go();
    void give_go();
    spore::Status take_limits_of_go();
    spore::Status make_empty_vm();
    spore::Status load_vm();
    spore::Status rewind_time();
    spore::Status populate_working_set(bool ahead);
    bool is_mapped_ahead() const;
    spore::Status map_working_set();
    void began();
    bool is_waiting() const { return go_ && !has_run_; }
    bool is_beginning() const { return begun_ && !has_run_; }

    // machine_restore.cc
    spore::Status rebuild_devices(const MachineState& state,
                                  std::vector<LoadedSnapshot::Disk>& layers, CloneFiles& files);
    spore::Status rebuild_disk(const DiskState& state, LoadedSnapshot::Disk* layers,
                               CloneFiles& files);
    spore::Status rebuild_network(const NetworkState& network, CloneFiles& files);
    spore::Status rebuild_vsock(const VsockState& state, CloneFiles& files);

    // machine_snapshot.cc
    spore::Status write_snapshot(const std::string& directory, std::optional<VsockPorts> carry);
    Result<MachineState> save_state(std::optional<VsockPorts> carry);
    spore::Status save_disks(const std::string& directory);

    // machine_counters.cc
    void add_device_counters(Status& status);

    // machine.cc
    void park_vcpus();
    void quiesce_devices();
    void paused();
    void end(const VmExit& exit);

    // ExitHandler, on vCPU threads
    void was_in_guest() override;
    void io_read(uint16_t port, std::span<std::byte> bytes) override;
    void io_write(uint16_t port, std::span<const std::byte> bytes) override;
    void mmio_read(GuestAddress address, std::span<std::byte> bytes) override;
    void mmio_write(GuestAddress address, std::span<const std::byte> bytes) override;

    // MsiSink, DoorbellRegistry
    void send(const MsiMessage& message) override;
    spore::Status assign(GuestAddress address, int eventfd) override;
    void remove(GuestAddress address, int eventfd) override;

    EventLoop& loop_;
    MachineConfig config_;
    OnEnd on_end_;
    RunState state_ = RunState::paused;

    // In an order whose reverse is that of taking them down.
    std::optional<Kvm> kvm_;
    GuestMemory memory_;
    std::optional<Vm> vm_;
    Serial serial_;
    PciBus bus_;
    std::vector<std::unique_ptr<VirtioDevice>> devices_;
    std::vector<std::unique_ptr<VirtioPciTransport>> transports_;
    std::vector<DiskDevice> disks_;
    std::vector<VirtioNet*> networks_;
    VsockDevice* vsock_ = nullptr;
    std::vector<Vcpu> vcpus_;
    std::vector<std::unique_ptr<VcpuThread>> threads_;

    std::unique_ptr<SavedCpus> saved_cpus_;
    StandingTime standing_time_;
    std::vector<WaitingDoorbell> waiting_doorbells_;  // assigned before there was a VM
    StageTimer* stages_ = nullptr;
    std::function<void()> on_first_run_;
    std::function<void(Counters&)> count_console_;
    std::vector<Done> pause_waiters_;
    std::vector<Done> built_waiters_;   // of a clone that its thread is still making
    std::vector<Done> resume_waiters_;  // of a clone that has been given its go

    // Of a clone: what its first vCPU's thread waits for, a FIFO of whoever takes clones or an
    // eventfd of our own.
    UniqueFd go_;
    std::optional<CloneGo> go_limits_;  // that came with it; for the loop from began() on
    CloneStart start_ = CloneStart::run;
    bool in_pool_ = false;  // it waits for somebody else's go
    Done on_started_;
    std::atomic<bool> begun_ = false;          // it has had its go
    std::atomic<bool> quitting_ = false;       // the go is that of the end
    bool has_run_ = false;                     // the devices have been resumed since
    std::atomic<bool> joined_ = false;         // the same, for the first vCPU; or it is to end
    std::atomic<uint32_t> vcpus_running_ = 0;  // while parking: those not out yet
    uint32_t devices_running_ = 0;             // while quiescing
    MadeFiles made_files_;                     // see keep_files()
    bool announce_reset_ = false;              // restored: all vsock connections are gone
    std::atomic<uint64_t> built_monotonic_ns_ = 0;
    WorkingSet working_set_;                  // of a clone
    uint64_t populated_pages_ = 0;            // of it, mapped in this process
    std::atomic<uint64_t> mapped_pages_ = 0;  // of it, mapped in KVM ahead
};

}  // namespace spore
