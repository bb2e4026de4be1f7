#include "hypervisor/vmm/machine.h"

#include <unistd.h>

#include <cassert>

#include "hypervisor/boot/layout.h"
#include "hypervisor/jail/jail.h"
#include "schema/control_generated.h"

namespace spore {

Machine::Machine(EventLoop& loop, MachineConfig config, Serial::Sink console, OnEnd on_end)
    : loop_(loop),
      config_(std::move(config)),
      on_end_(std::move(on_end)),
      serial_(std::move(console)) {}

Machine::~Machine() {
    state_ = RunState::ended;
    quitting_ = true;
    joined_ = true;
    joined_.notify_all();
    if (is_waiting() && !begun_)
        give_go();
    // The loop is stopped: a vCPU that waits for it (EventLoop::call) gets its no.
    for (auto& thread : threads_)
        thread->stop();
    // Then nobody kicks any more, and what the devices have in flight can end.
    uint32_t resetting = 0;
    for (auto& device : devices_) {
        resetting++;
        device->reset([&resetting] { resetting--; });
    }
    loop_.run_until([&] { return resetting == 0; }, std::chrono::seconds(30));
    loop_.drain();
}

void Machine::run() {
    if (state_ != RunState::paused)
        return;
    state_ = RunState::running;
    if (on_first_run_)
        std::exchange(on_first_run_, nullptr)();
    // Devices first: what they have for the guest is there when it looks. A device that the driver
    // had not started stays idle.
    for (auto& device : devices_)
        device->resume();
    if (std::exchange(announce_reset_, false) && vsock_ != nullptr)
        vsock_->announce_reset();
    for (auto& thread : threads_)
        thread->run();
}

Machine::Status Machine::control_status() {
    using State = control::fb::RunState;
    Status status;
    status.state = static_cast<uint8_t>(state_ == RunState::running ? State::running
                                        : state_ == RunState::ended ? State::ended
                                                                    : State::paused);
    status.memory_bytes = memory_.size();
    status.cpus = config_.cpus;
    auto add = [&](const std::string& name, uint64_t value) {
        status.counters.emplace_back(name, value);
    };
    add("built_monotonic_ns", built_monotonic_ns_);
    uint64_t entry = 0, exit = 0, exits = 0;
    auto keep_first = [](uint64_t& first, uint64_t here) {
        if (here != 0 && (first == 0 || here < first))
            first = here;
    };
    for (auto& thread : threads_) {
        keep_first(entry, thread->first_entry_ns());
        keep_first(exit, thread->first_exit_ns());
        exits += thread->exits();
    }
    add("first_entry_monotonic_ns", entry);
    add("first_exit_monotonic_ns", exit);
    if (stages_ != nullptr) {
        for (const StageTimer::Stage& stage : stages_->stages())
            add(std::string("stage.") + stage.name, stage.end_ns);
    }
    add("vcpu_exits", exits);
    add("populated_pages", populated_pages_);
    add("mapped_pages", mapped_pages_);
    add_device_counters(status);
    return status;
}

void Machine::control_pause(Done done) {
    if (is_beginning()) {
        pause_waiters_.push_back(std::move(done));  // began() sees to it
        return;
    }
    if (state_ == RunState::paused || state_ == RunState::prepared) {
        done({});
        return;
    }
    if (state_ == RunState::ended) {
        done(fail(Code::unavailable, "the VM has ended"));
        return;
    }
    pause_waiters_.push_back(std::move(done));
    if (state_ == RunState::pausing)
        return;
    state_ = RunState::pausing;
    park_vcpus();
}

// vCPUs before devices: no kick comes in once they are out.
void Machine::park_vcpus() {
    vcpus_running_ = static_cast<uint32_t>(threads_.size());
    for (auto& thread : threads_) {
        thread->park([this] {
            if (--vcpus_running_ == 0)
                loop_.post([this] { quiesce_devices(); });
        });
    }
}

void Machine::quiesce_devices() {
    if (state_ != RunState::pausing)
        return;  // it ended meanwhile
    devices_running_ = 1;
    auto one_less = [this] {
        if (--devices_running_ == 0)
            paused();
    };
    for (auto& device : devices_) {
        devices_running_++;
        device->quiesce(one_less);
    }
    one_less();
}

void Machine::paused() {
    if (state_ != RunState::pausing)
        return;
    state_ = RunState::paused;
    for (Vcpu& vcpu : vcpus_)
        vcpu.mark_stopped();
    for (Done& waiter : std::exchange(pause_waiters_, {}))
        waiter({});
}

void Machine::control_resume(Done done) {
    if (is_waiting() && state_ != RunState::ended) {
        resume_waiters_.push_back(std::move(done));
        if (!begun_)
            give_go();
        return;
    }
    if (state_ == RunState::paused)
        run();
    if (state_ == RunState::running)
        done({});
    else
        done(fail(Code::unavailable, state_ == RunState::ended
                                         ? "the VM has ended"
                                         : "the VM is being paused for another request"));
}

void Machine::control_snapshot(const std::string& directory, std::optional<VsockPorts> carry,
                               Done done) {
    if (is_jailed()) {
        done(fail(Code::unavailable, "snapshot: a jailed VM cannot open '" + directory + "'"));
        return;
    }
    if (state_ == RunState::prepared && start_ == CloneStart::built && on_started_) {
        built_waiters_.push_back(
            [this, directory, carry, done = std::move(done)](spore::Status built) mutable {
                if (built)
                    control_snapshot(directory, carry, std::move(done));
                else
                    done(std::move(built));
            });
        return;
    }
    if (state_ == RunState::prepared) {
        done(fail(Code::unavailable, "the VM has not been built yet: resume it first"));
        return;
    }
    bool was_running = state_ == RunState::running || is_beginning();
    control_pause([this, directory, carry, was_running,
                   done = std::move(done)](spore::Status paused) mutable {
        spore::Status written = paused ? write_snapshot(directory, carry) : std::move(paused);
        if (was_running && state_ == RunState::paused)
            run();
        done(std::move(written));
    });
}

void Machine::control_quit() {
    end({VmExit::Reason::quit, ""});
}

void Machine::end(const VmExit& exit) {
    if (state_ == RunState::ended)
        return;
    state_ = RunState::ended;
    serial_.flush();
    if (on_started_)
        std::exchange(on_started_, nullptr)(fail(Code::unavailable, "the VM has ended"));
    for (auto* waiters : {&built_waiters_, &pause_waiters_, &resume_waiters_}) {
        for (Done& waiter : std::exchange(*waiters, {}))
            waiter(fail(Code::unavailable,
                        "the VM has ended" + (exit.detail.empty() ? "" : ": " + exit.detail)));
    }
    on_end_(exit);
}

void Machine::io_read(uint16_t port, std::span<std::byte> bytes) {
    bool serial = port >= layout::kSerialPort && port < layout::kSerialPort + layout::kSerialPorts;
    for (size_t index = 0; index < bytes.size(); index++)
        bytes[index] = std::byte{0xff};  // nobody there
    if (serial)
        bytes[0] = std::byte{serial_.read(static_cast<uint16_t>(port - layout::kSerialPort))};
    else if (port == layout::kSleepStatusPort)
        bytes[0] = std::byte{0};
}

void Machine::io_write(uint16_t port, std::span<const std::byte> bytes) {
    auto value = static_cast<uint8_t>(bytes[0]);
    if (port >= layout::kSerialPort && port < layout::kSerialPort + layout::kSerialPorts) {
        serial_.write(static_cast<uint16_t>(port - layout::kSerialPort), value);
        if (config_.interactive_console)
            serial_.flush();
        return;
    }
    std::optional<VmExit::Reason> reason;
    if (port == layout::kSleepControlPort && layout::is_power_off(value))
        reason = VmExit::Reason::power_off;
    else if (port == layout::kResetPort && value == layout::kResetValue)
        reason = VmExit::Reason::reset;
    else if (port == 0x64 &&
             value == 0xfe)  // the keyboard controller's reset line, a kernel's last resort
        reason = VmExit::Reason::reset;
    if (reason)
        loop_.post([this, exit = VmExit{*reason, ""}] { end(exit); });
}

void Machine::mmio_read(GuestAddress address, std::span<std::byte> bytes) {
    for (std::byte& byte : bytes)
        byte = std::byte{0xff};
    uint64_t ecam = address.value() - layout::kEcamStart;
    loop_.call([&] {
        if (ecam < layout::kEcamBytes)
            bus_.read_config(static_cast<uint32_t>(ecam), bytes);
        else
            (void)bus_.read_mmio(address, bytes);
    });
}

void Machine::mmio_write(GuestAddress address, std::span<const std::byte> bytes) {
    uint64_t ecam = address.value() - layout::kEcamStart;
    loop_.call([&] {
        if (ecam < layout::kEcamBytes)
            bus_.write_config(static_cast<uint32_t>(ecam), bytes);
        else
            (void)bus_.write_mmio(address, bytes);
    });
}

void Machine::send(const MsiMessage& message) {
    // A message that makes no sense is refused by KVM; the guest wrote it, the guest goes without.
    if (vm_)
        (void)vm_->signal_msi(message.address, message.data);
}

spore::Status Machine::assign(GuestAddress address, int eventfd) {
    if (!vm_) {
        waiting_doorbells_.push_back({address, eventfd});
        return {};
    }
    return vm_->add_doorbell(address, eventfd);
}

void Machine::remove(GuestAddress address, int eventfd) {
    if (vm_)
        (void)vm_->remove_doorbell(address, eventfd);
    else
        std::erase_if(waiting_doorbells_, [&](const WaitingDoorbell& waiting) {
            return waiting.address == address && waiting.eventfd == eventfd;
        });
}

}  // namespace spore
