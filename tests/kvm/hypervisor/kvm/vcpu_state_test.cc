#include <gmock/gmock.h>

#include <thread>

#include "tests/kvm/support/state_compare.h"
#include "tests/kvm/support/test_guest.h"

namespace spore {
namespace {

using testing::IsEmpty;

constexpr uint32_t kMsrTsc = 0x10, kMsrTscAdjust = 0x3b, kMsrStar = 0xc0000081,
                   kMsrLstar = 0xc0000082, kMsrKernelGsBase = 0xc0000102, kMsrPat = 0x277,
                   kMsrTscDeadline = 0x6e0, kMsrKvmSystemTime = 0x4b564d01, kMsrMtrrDefault = 0x2ff,
                   kMsrMtrrBase0 = 0x200;

class VcpuStateTest : public testing::Test {
  protected:
    void SetUp() override { NEEDS_KVM(); }

    static uint64_t msr(const VcpuState& state, uint32_t index) {
        for (const kvm_msr_entry& entry : state.msrs) {
            if (entry.index == index)
                return entry.data;
        }
        ADD_FAILURE() << "MSR " << std::hex << index << " is not in the state";
        return 0;
    }
    static VcpuState save(TestGuest& guest, uint32_t index = 0) {
        return must(guest.vcpus[index].save(must(guest.kvm.msr_indices())));
    }
    static constexpr const char* kNoOffset =
        "this host's KVM keeps no TSC offset: it gives every guest the host's TSC, has no "
        "KVM_VCPU_TSC_OFFSET, or the host's TSC is unstable and KVM makes it up at each entry";
    static bool offsets_tsc(TestGuest& fresh) {
        auto offset = fresh.vcpu().tsc_offset();
        return offset.value_or(0) != 0 && fresh.vcpu().tsc_offset() == offset;
    }
    // A vCPU with something of its own in each register that is easy to reach: its general and
    // vector registers by running, its LAPIC with an MSI pending and the TSC-deadline timer armed.
    static std::unique_ptr<TestGuest> filled() {
        TestGuest first;
        first.start(msi_guest());
        EXPECT_EQ(first.run().io.port, 0x10);
        must(first.vm.signal_msi(0xfee00000, 0x41));
        EXPECT_EQ(first.run().io.port, kDonePort);
        must(first.vcpu().complete_access());
        first.start(fill_guest(), Privilege::ring3);
        EXPECT_EQ(first.run().io.port, kDonePort);
        must(first.vcpu().complete_access());

        auto state = save(first);
        state.lapic.regs[0x322] = 4;  // LVT timer: TSC-deadline, vector 0x20, not masked
        state.lapic.regs[0x321] = 0;
        state.lapic.regs[0x320] = 0x20;
        state.debugregs.db[0] = 0x1234;
        auto guest = std::make_unique<TestGuest>();
        must(guest->memory.write_bytes(kGuestCode, fill_guest()));
        must(guest->vcpu().load(state));
        must(guest->vcpu().set_msrs({{kMsrStar, 0, 0x0023001000000000},
                                     {kMsrLstar, 0, 0xffffffff81000000},
                                     {kMsrKernelGsBase, 0, 0xffff888000000000},
                                     {kMsrPat, 0, 0x0007010600070106},
                                     {kMsrMtrrBase0, 0, 0xc0000000},
                                     {kMsrMtrrDefault, 0, 0x806},
                                     {kMsrKvmSystemTime, 0, 0x9001},
                                     {kMsrTscDeadline, 0, uint64_t{1} << 62}}));
        return guest;
    }
};

TEST_F(VcpuStateTest, IsTheSameAfterSaveAndLoadInAnotherVm) {
    auto source = filled();
    auto saved = save(*source);
    EXPECT_EQ(saved.regs.r15, 0x2222222222222222u);
    EXPECT_EQ(saved.xsave[160], 0x11) << "XMM0 (SDM 1 §10.5.1)";
    EXPECT_EQ(msr(saved, kMsrTscDeadline), uint64_t{1} << 62);
    EXPECT_EQ(msr(saved, kMsrMtrrDefault), 0x806u);
    EXPECT_EQ(saved.lapic.regs[0x220] & 2, 2);

    TestGuest target;
    must(target.vcpu().load(saved));
    EXPECT_THAT(state_differences(saved, save(target)), IsEmpty());
}

TEST_F(VcpuStateTest, DiffersFromAFreshVcpuInWhatTheTestFills) {
    auto source = filled();
    TestGuest fresh;
    auto differences = state_differences(save(*source), save(fresh));
    auto has = [&](std::string_view what) {
        for (const std::string& line : differences) {
            if (line.starts_with(what))
                return true;
        }
        return false;
    };
    for (auto what : {"regs", "sregs", "debugregs", "lapic", "xsave", "MSR 0x6e0", "MSR 0x200",
                      "MSR 0xc0000082", "MSR 0x4b564d01"})
        EXPECT_TRUE(has(what)) << what << " would go unnoticed";
}

TEST_F(VcpuStateTest, GoesOnRunningInAnotherVm) {
    auto source = filled();
    auto saved = save(*source);
    TestGuest target;
    must(target.memory.write_bytes(kGuestCode, fill_guest()));
    must(target.vcpu().load(saved));
    kvm_run& run = target.run();
    ASSERT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
    EXPECT_EQ(run.io.port, kDonePort);
    EXPECT_EQ(must(target.vcpu().regs()).rcx, 0x1111111111111111u);
}

TEST_F(VcpuStateTest, KeepsTheTscOfAYoungGuest) {
    TestGuest source;
    auto saved = save(source);
    if (!offsets_tsc(source))
        GTEST_SKIP() << kNoOffset;
    ASSERT_LT(msr(saved, kMsrTsc), uint64_t{saved.tsc_khz} * 60'000) << "it begins at 0";
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    auto begin = std::chrono::steady_clock::now();
    TestGuest target;
    must(target.vcpu().load(saved));
    auto now = msr(save(target), kMsrTsc);
    auto elapsed = std::chrono::steady_clock::now() - begin;
    EXPECT_GE(now, msr(saved, kMsrTsc));
    double microseconds = std::chrono::duration<double, std::micro>(elapsed).count();
    EXPECT_LT(static_cast<double>(now - msr(saved, kMsrTsc)),
              microseconds * saved.tsc_khz / 1000 * 1.01)
        << "time that passed before the load is not the guest's";
}

TEST_F(VcpuStateTest, KeepsTheTscsOfSeveralInStep) {
    TestGuest source(4);
    if (!offsets_tsc(source))
        GTEST_SKIP() << kNoOffset;
    std::vector<VcpuState> states;
    for (uint32_t index = 0; index < 4; index++)
        states.push_back(save(source, index));
    // The guest has moved the last one's by itself.
    for (kvm_msr_entry& entry : states[3].msrs) {
        if (entry.index == kMsrTscAdjust || entry.index == kMsrTsc)
            entry.data += 1'000'000;
    }
    TestGuest target(4);
    must(load_vcpus(target.vcpus, states));
    uint64_t first = *target.vcpus[0].tsc_offset();
    EXPECT_EQ(*target.vcpus[1].tsc_offset(), first);
    EXPECT_EQ(*target.vcpus[2].tsc_offset(), first);
    EXPECT_EQ(*target.vcpus[3].tsc_offset(), first + 1'000'000);
}

TEST_F(VcpuStateTest, PutsBackTheTimeThatAMachineWaited) {
    TestGuest source(2);
    if (!offsets_tsc(source))
        GTEST_SKIP() << kNoOffset;
    std::vector<VcpuState> states = {save(source, 0), save(source, 1)};
    constexpr uint64_t kFarAway = uint64_t{1} << 62;
    for (VcpuState& state : states) {
        state.lapic.regs[0x322] = 4;  // LVT timer: TSC-deadline, vector 0x20, not masked
        state.lapic.regs[0x321] = 0;
        state.lapic.regs[0x320] = 0x20;
        for (kvm_msr_entry& entry : state.msrs)
            entry.data = entry.index == kMsrTscDeadline ? kFarAway : entry.data;
    }
    std::vector<VcpuTime> times = {time_of(states[0]), time_of(states[1])};
    EXPECT_EQ(times[0].tsc_deadline, kFarAway);
    TestGuest target(2);
    must(load_vcpus(target.vcpus, states));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    auto begin = std::chrono::steady_clock::now();
    must(rewind_vcpus(target.vcpus, times));
    auto after = save(target, 0);
    auto elapsed = std::chrono::steady_clock::now() - begin;
    double microseconds = std::chrono::duration<double, std::micro>(elapsed).count();
    ASSERT_LT(microseconds, 100'000) << "too busy a host to tell";
    EXPECT_GE(msr(after, kMsrTsc), times[0].tsc);
    EXPECT_LT(static_cast<double>(msr(after, kMsrTsc) - times[0].tsc),
              (microseconds + 1000) * after.tsc_khz / 1000);
    EXPECT_EQ(msr(after, kMsrTscDeadline), kFarAway);
    EXPECT_EQ(target.vcpus[0].tsc_offset(), target.vcpus[1].tsc_offset()) << "still in step";
}

TEST_F(VcpuStateTest, RefusesAStateForAnotherNumberOfVcpus) {
    TestGuest source, target(2);
    std::vector<VcpuState> states = {save(source)};
    auto status = load_vcpus(target.vcpus, states);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::invalid_argument);
}

TEST_F(VcpuStateTest, RefusesShapesThatDoNotFit) {
    TestGuest source, target;
    auto state = save(source);
    state.xsave.resize(100);
    EXPECT_EQ(target.vcpu().load(state).error().code, Code::version_mismatch);
    state = save(source);
    state.cpuid.resize(300);
    EXPECT_EQ(target.vcpu().load(state).error().code, Code::corrupt);
    state = save(source);
    state.msrs.resize(600);
    EXPECT_EQ(target.vcpu().load(state).error().code, Code::corrupt);
}

TEST_F(VcpuStateTest, NamesAnMsrThatDoesNotTakeItsValue) {
    TestGuest source, target;
    auto state = save(source);
    state.msrs.push_back({0x12345678, 0, 1});
    auto status = target.vcpu().load(state);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::version_mismatch);
    EXPECT_NE(status.error().message.find("0x12345678"), std::string::npos)
        << status.error().message;
}

TEST_F(VcpuStateTest, SavesWaitingVcpusToo) {
    TestGuest source(2), target(2);
    auto saved = save(source, 1);
    EXPECT_EQ(saved.mp_state.mp_state, static_cast<uint32_t>(KVM_MP_STATE_UNINITIALIZED));
    must(target.vcpus[1].load(saved));
    EXPECT_THAT(state_differences(saved, save(target, 1)), IsEmpty());
}

TEST_F(VcpuStateTest, LetsTheClockGoOnFromWhereItStood) {
    TestGuest source;
    kvm_clock_data clock = {};
    clock.clock = 5'000'000'000'000;  // far from that of a fresh VM
    clock.flags = KVM_CLOCK_REALTIME;
    clock.realtime = 1;  // ignored: the agent steps the wall clock
    auto begin = std::chrono::steady_clock::now();
    must(source.vm.set_clock(clock));
    auto now = must(source.vm.clock());
    auto elapsed = std::chrono::steady_clock::now() - begin;
    EXPECT_GE(now.clock, clock.clock);
    EXPECT_LE(
        now.clock,
        clock.clock + static_cast<uint64_t>(elapsed / std::chrono::nanoseconds(1)) + 1'000'000);
}

}  // namespace
}  // namespace spore
