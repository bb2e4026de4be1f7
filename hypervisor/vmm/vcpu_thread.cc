#include "hypervisor/vmm/vcpu_thread.h"

#include <pthread.h>
#include <signal.h>

#include <cassert>
#include <cstdio>

#include "hypervisor/base/clock.h"
#include "hypervisor/jail/jail.h"

namespace spore {

namespace {

// Its only effect is that KVM_RUN returns EINTR.
int kick_signal() {
    return SIGRTMIN;
}

void install_kick_handler() {
    static const bool installed = [] {
        struct sigaction action = {};
        action.sa_handler = [](int) {};
        sigemptyset(&action.sa_mask);
        return ::sigaction(kick_signal(), &action, nullptr) == 0;
    }();
    assert(installed);
    (void)installed;
}

}  // namespace

VcpuThread::VcpuThread(ExitHandler& handler, OnEnd on_end, First first)
    : handler_(handler), on_end_(std::move(on_end)), first_(std::move(first)) {
    install_kick_handler();
    thread_ = std::thread([this] { loop(); });
}

VcpuThread::VcpuThread(Vcpu& vcpu, ExitHandler& handler, OnEnd on_end)
    : VcpuThread(handler, std::move(on_end)) {
    attach(vcpu);
}

VcpuThread::~VcpuThread() {
    stop();
}

void VcpuThread::attach(Vcpu& vcpu) {
    std::lock_guard lock(mutex_);
    assert(vcpu_ == nullptr && is_parked_);
    vcpu_ = &vcpu;
}

void VcpuThread::run() {
    std::lock_guard lock(mutex_);
    assert(vcpu_ != nullptr && "attach() comes before run()");
    if (order_ == Order::stop)
        return;
    order_ = Order::run;
    changed_.notify_all();
}

void VcpuThread::park(std::function<void()> parked) {
    {
        std::lock_guard lock(mutex_);
        if (order_ != Order::stop)
            order_ = Order::park;
        if (!is_parked_) {
            on_parked_ = std::move(parked);
            kick();
            return;
        }
    }
    parked();
}

void VcpuThread::stop() {
    if (!thread_.joinable())
        return;
    {
        std::lock_guard lock(mutex_);
        order_ = Order::stop;
        kick();
        changed_.notify_all();
    }
    thread_.join();
}

// With mutex_ held. immediate_exit first: a KVM_RUN that begins after it returns at once, one that
// has begun before is interrupted by the signal. The thread lives until stop() has joined it.
void VcpuThread::kick() {
    kicked_ = true;
    if (vcpu_ == nullptr)
        return;  // it has never run
    __atomic_store_n(&vcpu_->run_page().immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
    ::pthread_kill(thread_.native_handle(), kick_signal());
}

void VcpuThread::loop() {
    // The kick and nothing else arrives here, whatever mask the creating thread had: other signals
    // are the process's business, and one of them must not be taken for a kick.
    sigset_t blocked;
    sigfillset(&blocked);
    for (int kept : {kick_signal(), SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS})
        sigdelset(&blocked, kept);  // the latter come of what this thread does itself
    ::pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
    if (first_)
        do_first();
    else
        restrict();
    while (wait_for_run()) {
        run_until_kicked();
        finish_access();
        // It may have been kicked before it ever was in the guest.
        if (!restricted_)
            restrict();
    }
}

// Told to run before `first_`, which lets others know that the machine has begun: a park() of
// theirs may be here before its return is, and holds.
void VcpuThread::do_first() {
    auto tell = [this](Order order) {
        std::lock_guard lock(mutex_);
        if (order_ != Order::stop)
            order_ = order;
    };
    tell(Order::run);
    if (!first_(*this))
        tell(Order::park);
}

// A thread that makes its machine needs what the loop may do, and taking that away costs 60 µs: it
// is taken when KVM_RUN has returned for the first time, before anything of the guest's is looked
// at.
bool VcpuThread::restrict() {
    restricted_ = true;
    if (auto restricted = restrict_if_jailed(Role::vcpu); !restricted) {
        end(VmExit::Reason::host_error, restricted.error().message);
        return false;
    }
    return true;
}

// Parks until there is something to do; false when that is to end.
bool VcpuThread::wait_for_run() {
    std::unique_lock lock(mutex_);
    is_parked_ = true;
    if (on_parked_) {
        auto parked = std::exchange(on_parked_, nullptr);
        lock.unlock();
        parked();
        lock.lock();
    }
    changed_.wait(lock,
                  [this] { return order_ == Order::stop || (order_ == Order::run && !ended_); });
    if (order_ == Order::stop)
        return false;
    is_parked_ = false;
    if (exits_ != 0)
        vcpu_->mark_stopped();  // it stands between two runs
    kicked_ = false;
    __atomic_store_n(&vcpu_->run_page().immediate_exit, uint8_t{0}, __ATOMIC_SEQ_CST);
    return true;
}

void VcpuThread::run_until_kicked() {
    if (first_entry_ns_ == 0)
        first_entry_ns_ = monotonic_ns();
    while (!kicked_) {
        int error = vcpu_->run();
        if (!restricted_) {
            if (error == 0)
                first_exit_ns_ = monotonic_ns();
            if (!restrict())
                return;
            handler_.was_in_guest();
        }
        if (error == EINTR || error == EAGAIN)
            continue;
        if (error != 0) {
            // EFAULT and EHWPOISON leave an exit reason behind; others are plain refusals.
            end(VmExit::Reason::host_error, std::string("KVM_RUN: ") + std::strerror(error));
            return;
        }
        if (!handle_exit())
            return;
    }
}

// KVM does the second half of an access (the value into the register, the instruction stepped over)
// when it is entered again. With immediate_exit it does that and no more.
void VcpuThread::finish_access() {
    for (;;) {
        {
            std::lock_guard lock(mutex_);
            if (ended_)
                return;
        }
        __atomic_store_n(&vcpu_->run_page().immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
        int error = vcpu_->run();
        if (error == EINTR || error == EAGAIN)
            return;
        if (error != 0) {
            end(VmExit::Reason::host_error, std::string("KVM_RUN: ") + std::strerror(error));
            return;
        }
        if (!handle_exit())  // a string instruction's next part, say
            return;
    }
}

// Whether the vCPU can go on.
bool VcpuThread::handle_exit() {
    kvm_run& run = vcpu_->run_page();
    exits_++;
    if (first_exit_ns_ == 0)
        first_exit_ns_ = monotonic_ns();
    switch (run.exit_reason) {
        case KVM_EXIT_IO:
            handle_io();
            return true;
        case KVM_EXIT_MMIO:
            handle_mmio();
            return true;
        case KVM_EXIT_INTR:
        case KVM_EXIT_IRQ_WINDOW_OPEN:
        case KVM_EXIT_SET_TPR:
        case KVM_EXIT_IOAPIC_EOI:
        case KVM_EXIT_HLT:
        case KVM_EXIT_X86_BUS_LOCK:
            return true;  // nothing for us to do
        case KVM_EXIT_SHUTDOWN:
            end(VmExit::Reason::triple_fault, "");
            return false;
        case KVM_EXIT_SYSTEM_EVENT:
            if (run.system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN)
                end(VmExit::Reason::power_off, "");
            else if (run.system_event.type == KVM_SYSTEM_EVENT_RESET)
                end(VmExit::Reason::reset, "");
            else
                end(VmExit::Reason::internal_error,
                    "KVM_EXIT_SYSTEM_EVENT of type " + std::to_string(run.system_event.type));
            return false;
        case KVM_EXIT_INTERNAL_ERROR:
            end_internal_error();
            return false;
        case KVM_EXIT_FAIL_ENTRY: {
            char text[64];
            std::snprintf(
                text, sizeof(text), "hardware reason 0x%llx",
                static_cast<unsigned long long>(run.fail_entry.hardware_entry_failure_reason));
            end(VmExit::Reason::entry_failure, text);
            return false;
        }
        default:
            end(VmExit::Reason::internal_error, "unexpected " +
                                                    std::string(kvm_exit_name(run.exit_reason)) +
                                                    " (" + std::to_string(run.exit_reason) + ")");
            return false;
    }
}

void VcpuThread::handle_io() {
    kvm_run& run = vcpu_->run_page();
    auto* data = reinterpret_cast<std::byte*>(&run) + run.io.data_offset;
    // A string instruction hands over `count` items at once.
    for (uint32_t item = 0; item < run.io.count; item++) {
        std::span bytes(data + size_t{item} * run.io.size, run.io.size);
        if (run.io.direction == KVM_EXIT_IO_IN)
            handler_.io_read(run.io.port, bytes);
        else
            handler_.io_write(run.io.port, bytes);
    }
}

void VcpuThread::handle_mmio() {
    kvm_run& run = vcpu_->run_page();
    GuestAddress address(run.mmio.phys_addr);
    auto bytes = std::as_writable_bytes(std::span(run.mmio.data, run.mmio.len));
    if (run.mmio.is_write)
        handler_.mmio_write(address, bytes);
    else
        handler_.mmio_read(address, bytes);
}

void VcpuThread::end_internal_error() {
    const kvm_run& run = vcpu_->run_page();
    char text[160];
    if (run.internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
        std::snprintf(text, sizeof(text), "suberror %u", run.internal.suberror);
        end(VmExit::Reason::internal_error, text);
        return;
    }
    auto regs = vcpu_->regs();
    int length =
        std::snprintf(text, sizeof(text), "vCPU %u at RIP 0x%llx, instruction bytes",
                      vcpu_->index(), regs ? static_cast<unsigned long long>(regs->rip) : 0);
    const auto& failure = run.emulation_failure;
    bool known = failure.ndata >= 3 &&
                 (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    std::string detail(text, static_cast<size_t>(length));
    if (!known)
        detail += " not known";
    for (size_t index = 0; known && index < failure.insn_size && index < 15; index++) {
        std::snprintf(text, sizeof(text), " %02x", failure.insn_bytes[index]);
        detail += text;
    }
    end(VmExit::Reason::emulation_failure, detail);
}

void VcpuThread::end(VmExit::Reason reason, std::string detail) {
    {
        std::lock_guard lock(mutex_);
        ended_ = true;
    }
    on_end_({reason, std::move(detail)});
}

}  // namespace spore
