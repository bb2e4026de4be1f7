#pragma once

// A vCPU's thread: the loop around KVM_RUN.

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <thread>

#include "hypervisor/kvm/vcpu.h"
#include "hypervisor/memory/guest_address.h"
#include "hypervisor/vmm/vm_exit.h"

namespace spore {

// What a vCPU's accesses do. Called on the vCPU's thread; reads fill all of `bytes` (1, 2, 4 or 8).
class ExitHandler {
  public:
    virtual ~ExitHandler() = default;
    virtual void io_read(uint16_t port, std::span<std::byte> bytes) = 0;
    virtual void io_write(uint16_t port, std::span<const std::byte> bytes) = 0;
    virtual void mmio_read(GuestAddress address, std::span<std::byte> bytes) = 0;
    virtual void mmio_write(GuestAddress address, std::span<const std::byte> bytes) = 0;
    // KVM_RUN has returned for the first time on a thread that had something to do First; nothing
    // of it has been looked at yet.
    virtual void was_in_guest() {}
};

// Made parked. While it is parked, its Vcpu may be used by the thread that drives it. All calls
// from that one thread; none of them waits for the vCPU but stop(): a vCPU may at that moment wait
// for the caller (EventLoop::call), so waiting for it would be the end of both.
class VcpuThread {
  public:
    // On the vCPU's thread, once: the VM cannot go on. The thread is parked for good after it.
    using OnEnd = std::function<void(const VmExit&)>;

    // What the thread does before all else, once: makes its machine, say, and is at once on the
    // processor on which that has been made. True: a vCPU has been attached meanwhile and runs, as
    // if run() had been called; false: the thread parks.
    using First = std::function<bool(VcpuThread& self)>;

    // The thread is there before its vCPU is: making one takes longer than waking it. attach()
    // before run().
    VcpuThread(ExitHandler& handler, OnEnd on_end, First first = nullptr);
    VcpuThread(Vcpu& vcpu, ExitHandler& handler, OnEnd on_end);
    ~VcpuThread();  // stop()
    VcpuThread(const VcpuThread&) = delete;
    VcpuThread& operator=(const VcpuThread&) = delete;

    // Gives it the vCPU to run; once.
    void attach(Vcpu& vcpu);
    void run();
    // Gets the vCPU out of the guest; `parked` is called, on its thread, when it is out with no
    // access half done, so that its state may be saved. At once if it is parked.
    void park(std::function<void()> parked);
    // Ends the thread and waits for it. What the vCPU waits for must be on its way to an end.
    void stop();

    // CLOCK_MONOTONIC when the guest was about to be entered first, and of its first exit to us; 0
    // if that has not come yet. Any thread.
    uint64_t first_entry_ns() const { return first_entry_ns_; }
    uint64_t first_exit_ns() const { return first_exit_ns_; }
    // Exits to us so far. Any thread.
    uint64_t exits() const { return exits_; }

  private:
    enum class Order { park, run, stop };

    void loop();
    void do_first();
    bool restrict();
    bool wait_for_run();
    void run_until_kicked();
    void finish_access();
    bool handle_exit();
    void handle_io();
    void handle_mmio();
    void end(VmExit::Reason reason, std::string detail);
    void end_internal_error();
    void kick();

    Vcpu* vcpu_ = nullptr;  // set while the thread is parked, before the first run
    ExitHandler& handler_;
    OnEnd on_end_;
    First first_;
    bool restricted_ = false;

    std::mutex mutex_;
    std::condition_variable changed_;
    Order order_ = Order::park;         // guarded by mutex_
    bool is_parked_ = true;             // guarded by mutex_
    bool ended_ = false;                // guarded by mutex_
    std::function<void()> on_parked_;   // guarded by mutex_
    std::atomic<bool> kicked_ = false;  // the order has changed: leave the guest
    std::atomic<uint64_t> first_entry_ns_ = 0;
    std::atomic<uint64_t> first_exit_ns_ = 0;
    std::atomic<uint64_t> exits_ = 0;
    std::thread thread_;
};

}  // namespace spore
