// Machine: a clone's last step, on its first vCPU's thread. THE PART OF THE RESTORE PATH THAT A
// REQUEST WAITS FOR, unless a pool has gone through it ahead (CloneStart::built).

#include <sys/eventfd.h>
#include <unistd.h>

#include "hypervisor/vmm/machine.h"
#include "hypervisor/vmm/map_ahead.h"

namespace spore {

void Machine::start_clone(CloneStart start, Done done) {
    start_ = start;
    in_pool_ = static_cast<bool>(go_);
    if (!go_)
        go_.reset(::eventfd(0, EFD_CLOEXEC));
    if (!go_) {
        done(fail_errno("eventfd"));
        return;
    }
    if (auto populated = populate_working_set(start != CloneStart::run); !populated) {
        done(populated);
        return;
    }
    begun_ = start == CloneStart::run;
    on_started_ = std::move(done);
    make_threads();
}

// Whether the vCPU is to run. Errors end the machine, or are for whoever waits for it to be built.
bool Machine::begin_clone(VcpuThread& first) {
    auto built = make_empty_vm();
    if (built && is_mapped_ahead())
        built = map_working_set();
    if (built && start_ == CloneStart::prepared) {
        loop_.post([this] {
            if (on_started_)
                std::exchange(on_started_, nullptr)({});
        });
        if (!wait_for_go())
            return false;
    }
    if (built)
        built = load_vm();
    if (built)
        first.attach(vcpus_[0]);  // from here on it can be stopped
    saved_cpus_.reset();
    if (!built) {
        loop_.post([this, error = std::move(built).error()] {
            if (on_started_)
                std::exchange(on_started_, nullptr)(std::unexpected(error));
            else
                end({VmExit::Reason::host_error, error.message});
        });
        return false;
    }
    if (start_ == CloneStart::built) {
        loop_.post([this] {
            if (state_ == RunState::ended)
                return;
            state_ = RunState::paused;
            std::exchange(on_started_, nullptr)({});
            for (Done& waiter : std::exchange(built_waiters_, {}))
                waiter({});
        });
        if (!wait_for_go())
            return false;
        if (auto rewound = rewind_time(); !rewound) {
            loop_.post([this, error = std::move(rewound).error()] {
                end({VmExit::Reason::host_error, error.message});
            });
            return false;
        }
        stages_->mark("rewind_time");
    }
    loop_.post([this] { began(); });
    return true;
}

// False: the machine is to end instead.
bool Machine::wait_for_go() {
    CloneGo go;
    ssize_t got = 0;
    do {
        got = ::read(go_.get(), &go, sizeof(go));
    } while (got < 0 && errno == EINTR);
    if ((got != sizeof(go) && got != sizeof(go.word)) || quitting_)
        return false;
    if (got == sizeof(go))
        go_limits_ = go;  // began() sees to them
    stages_->mark("go");
    begun_ = true;
    return true;
}

void Machine::give_go() {
    uint64_t one = 1;
    if (go_ && ::write(go_.get(), &one, sizeof(one)) < 0)
        end({VmExit::Reason::host_error, "the clone's go cannot be given"});
}

// The first vCPU goes no further than its first exit before the loop has resumed the devices: where
// many clones begin at once, their guests would keep the loops from that.
void Machine::was_in_guest() {
    joined_.wait(false);
}

// On the loop thread, when the first vCPU runs already: the rest of the machine joins it.
void Machine::began() {
    if (state_ == RunState::ended)
        return;
    if (auto limited = take_limits_of_go(); !limited) {
        end({VmExit::Reason::host_error, limited.error().message});
        return;
    }
    has_run_ = true;
    state_ = RunState::paused;
    run();
    joined_ = true;
    joined_.notify_all();
    if (on_started_)
        std::exchange(on_started_, nullptr)({});
    for (Done& waiter : std::exchange(resume_waiters_, {}))
        waiter({});
    if (!pause_waiters_.empty()) {
        state_ = RunState::pausing;
        park_vcpus();
    }
}

// Before the devices do anything.
spore::Status Machine::take_limits_of_go() {
    if (!go_limits_)
        return {};
    TRY(check_rate_limits("io-max", go_limits_->disk, "ops"));
    TRY(check_rate_limits("net-max", go_limits_->network, "packets"));
    return control_limits({go_limits_->disk, go_limits_->network, go_limits_->network});
}

// On the first vCPU's thread: a VM with nothing of the snapshot's in it but where its memory is.
// What it costs is the host's affair alone, so a clone that waits for its request has it already.
// Every vCPU exists before the first is loaded: interrupts between them need somewhere to go.
spore::Status Machine::make_empty_vm() {
    vm_ = TRY(Vm::create(*kvm_));
    stages_->mark("create_vm");
    TRY(vm_->set_memory(memory_));
    stages_->mark("memory_slots");
    for (uint32_t index = 0; index < config_.cpus; index++)
        vcpus_.push_back(TRY(Vcpu::create(*kvm_, *vm_, index)));
    stages_->mark("create_vcpus");
    return {};
}

// The snapshot's state, into it. The clock before the vCPUs, whose kvmclock MSRs point at it.
// Memory slots were before the doorbells, which prepare_clone() has left to be registered here: the
// other order costs 7 ms (shared/facts.md).
spore::Status Machine::load_vm() {
    TRY(vm_->set_clock(saved_cpus_->clock));
    TRY(load_vcpus(vcpus_, saved_cpus_->vcpus));
    standing_time_.clock = saved_cpus_->clock;
    for (const VcpuState& vcpu : saved_cpus_->vcpus)
        standing_time_.vcpus.push_back(time_of(vcpu));
    stages_->mark("load_vcpus");
    for (const WaitingDoorbell& doorbell : std::exchange(waiting_doorbells_, {}))
        TRY(vm_->add_doorbell(doorbell.address, doorbell.eventfd));
    stages_->mark("doorbells");
    attach_threads(1);
    built_monotonic_ns_ = monotonic_ns();
    return {};
}

// KVM's clocks run from when they are set. A clone that has been parked since (for an hour, maybe)
// is to find the time at which the snapshot was made, like any other.
spore::Status Machine::rewind_time() {
    TRY(rewind_vcpus(vcpus_, standing_time_.vcpus));
    return vm_->set_clock(standing_time_.clock);
}

// Pages that are written before anybody waits or not: every clone copies them, and so each of them
// is mapped once. Those that are only read are had as cheaply by a fault, 16 at a time: they are
// for whoever has the time (bench/memory_bench).
spore::Status Machine::populate_working_set(bool ahead) {
    if (working_set_.runs.empty())
        return {};
    populated_pages_ = TRY(populate(memory_, working_set_, Access::write));
    if (ahead)
        populated_pages_ += TRY(populate(memory_, working_set_, Access::read));
    stages_->mark("populate");
    return {};
}

// One that waits in a pool has the time; one that is wanted now has it where KVM maps pages by
// itself, which takes it less than half of the exits that they would be. One that was merely
// started paused is left as it is: nobody says that it will run soon.
bool Machine::is_mapped_ahead() const {
    if (start_ == CloneStart::run)
        return can_pre_fault(*kvm_);
    return in_pool_;
}

// In a VM that has nothing else of the snapshot's yet: no clock, no timer, and no MSR that would
// have KVM write into the guest (kvmclock, steal time) when its vCPU is entered.
spore::Status Machine::map_working_set() {
    if (working_set_.runs.empty())
        return {};
    const VcpuState& state = saved_cpus_->vcpus[0];
    TRY(vcpus_[0].load_paging(state));
    mapped_pages_ =
        TRY(map_ahead(*kvm_, vcpus_[0], state, memory_, guest_ranges(memory_, working_set_)));
    stages_->mark("map_ahead");
    return {};
}

}  // namespace spore
