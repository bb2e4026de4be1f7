#include "hypervisor/vmm/map_ahead.h"

#include <gtest/gtest.h>

#include "hypervisor/base/limits.h"
#include "hypervisor/kvm/kvm_abi.h"
#include "tests/kvm/support/test_guest.h"

namespace spore {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kRoot = 0x1000, kPointers = 0x2000, kDirectory = 0x3000, kCode = 0x10'0000;
constexpr uint64_t kBase = 0xffff'8000'0000'0000;  // where all memory is mapped

kvm_segment flat(uint16_t selector, uint8_t type, bool code) {
    kvm_segment segment = {};
    segment.limit = 0xffff'ffff;
    segment.selector = selector;
    segment.type = type;
    segment.present = 1;
    segment.s = 1;
    segment.g = 1;
    segment.l = code;
    segment.db = !code;
    return segment;
}

// A vCPU that stands in 64-bit kernel code, in the middle of a page of it.
class MapAhead : public testing::Test {
  protected:
    void SetUp() override {
        NEEDS_KVM();
        kvm_.emplace(*Kvm::open());
        vm_.emplace(*Vm::create(*kvm_));
        ASSERT_TRUE(vm_->set_memory(memory_));
        vcpu_.emplace(*Vcpu::create(*kvm_, *vm_, 0));
        auto cpuid = kvm_->supported_cpuid();
        ASSERT_TRUE(cpuid);
        ASSERT_TRUE(vcpu_->set_cpuid(*cpuid));
        put(kRoot + 256 * 8, kPointers | 3);
        put(kPointers, kDirectory | 3);
        for (uint64_t index = 0; index < 4; index++)
            put(kDirectory + index * 8, index << 21 | 0x83);
        kvm_sregs sregs = *vcpu_->sregs();
        sregs.cs = flat(8, 11, true);
        sregs.ds = sregs.es = sregs.ss = flat(16, 3, false);
        sregs.cr0 = 0x8000'0011;
        sregs.cr3 = kRoot;
        sregs.cr4 = 0x20;
        sregs.efer = 0x500;
        ASSERT_TRUE(vcpu_->set_sregs(sregs));
        kvm_regs regs = {};
        regs.rip = kBase + kCode + 0x234;
        regs.rflags = 0x202;
        regs.rax = 0x1234'5678;
        ASSERT_TRUE(vcpu_->set_regs(regs));
        state_ = *vcpu_->save(*kvm_->msr_indices());
        state_.mp_state.mp_state = KVM_MP_STATE_HALTED;
        ASSERT_TRUE(vcpu_->set_mp_state(state_.mp_state));
    }
    void put(uint64_t address, uint64_t value) {
        ASSERT_TRUE(memory_.write(GuestAddress(address), value));
    }
    Result<uint64_t> map(std::vector<MemoryExtent> pages) {
        return map_ahead(*kvm_, *vcpu_, state_, memory_, pages);
    }

    static constexpr MemoryExtent kExtents[] = {{GuestAddress(0), 8 * limits::kMiB}};
    GuestMemory memory_ = *GuestMemory::allocate(kExtents);
    std::optional<Kvm> kvm_;
    std::optional<Vm> vm_;
    std::optional<Vcpu> vcpu_;
    VcpuState state_;
};

TEST_F(MapAhead, LeavesMemoryAndVcpuAsTheyWere) {
    for (uint64_t at = 0; at < kPage; at += 8)
        put(at, 0x1111'1111'0000'0000 + at);
    auto mapped = map({{GuestAddress(0x20'0000), 3 * kPage}, {GuestAddress(0x50'0000), kPage}});
    ASSERT_TRUE(mapped) << mapped.error().message;
    EXPECT_EQ(*mapped, 4u);
    for (uint64_t at = 0; at < kPage; at += 8)
        ASSERT_EQ(*memory_.read<uint64_t>(GuestAddress(at)), 0x1111'1111'0000'0000 + at);
    kvm_regs regs = *vcpu_->regs();
    EXPECT_EQ(regs.rip, kBase + kCode + 0x234);
    EXPECT_EQ(regs.rflags & 0x200, 0x200u);
    EXPECT_EQ(regs.rax, 0x1234'5678u);
    EXPECT_EQ(regs.rcx, 0u);
    EXPECT_EQ(vcpu_->mp_state()->mp_state, uint32_t{KVM_MP_STATE_HALTED});
    EXPECT_EQ(vcpu_->sregs()->cr3, kRoot);
    EXPECT_EQ(vcpu_->sregs()->cs.selector, 8);
    // It may stand in a program as well.
    state_.sregs.cs.selector = 0x33;
    state_.sregs.ss.selector = 0x2b;
    state_.sregs.cs.dpl = state_.sregs.ss.dpl = 3;
    ASSERT_TRUE(vcpu_->set_sregs(state_.sregs));
    mapped = map({{GuestAddress(0x20'0000), kPage}});
    ASSERT_TRUE(mapped) << mapped.error().message;
    EXPECT_EQ(*mapped, 1u);
    EXPECT_EQ(vcpu_->sregs()->cs.selector, 0x33);
    EXPECT_EQ(vcpu_->sregs()->ss.dpl, 3);
}

// As in a clone that waits: the rest of its state comes with the request.
TEST_F(MapAhead, ComesBeforeTheRestOfTheState) {
    constexpr uint8_t kPort = 0x55;
    put(kCode + 0x234, 0x00e6 | uint64_t{kPort} << 8);  // out kPort, al
    state_.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
    vcpu_.reset();
    vm_.emplace(*Vm::create(*kvm_));
    ASSERT_TRUE(vm_->set_memory(memory_));
    vcpu_.emplace(*Vcpu::create(*kvm_, *vm_, 0));
    auto paging = vcpu_->load_paging(state_);
    ASSERT_TRUE(paging) << paging.error().message;
    auto mapped = map({{GuestAddress(0x20'0000), 3 * kPage}});
    ASSERT_TRUE(mapped) << mapped.error().message;
    EXPECT_EQ(*mapped, 3u);
    auto loaded = vcpu_->load(state_);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(vcpu_->regs()->rax, 0x1234'5678u);
    EXPECT_EQ(vcpu_->regs()->rip, kBase + kCode + 0x234);
    int error = 0;
    do {
        error = vcpu_->run();
    } while (error == EINTR || error == EAGAIN);
    ASSERT_EQ(error, 0);
    EXPECT_EQ(vcpu_->run_page().exit_reason, uint32_t{KVM_EXIT_IO});
    EXPECT_EQ(vcpu_->run_page().io.port, kPort);
}

TEST_F(MapAhead, LeavesAGuestWithoutPagingAsItWas) {
    state_.sregs.cr0 = 0x11;
    state_.sregs.efer = 0;
    state_.sregs.cr4 = 0;
    state_.sregs.cs = flat(8, 11, false);
    state_.regs.rip = kCode + 0x234;
    ASSERT_TRUE(vcpu_->set_sregs(state_.sregs));
    ASSERT_TRUE(vcpu_->set_regs(state_.regs));
    for (uint64_t at = 0; at < kPage; at += 8)
        put(kCode + at, 0x1111'1111'0000'0000 + at);
    auto mapped = map({{GuestAddress(0x20'0000), 3 * kPage}, {GuestAddress(0x50'0000), kPage}});
    ASSERT_TRUE(mapped) << mapped.error().message;
    EXPECT_EQ(*mapped, 4u);
    for (uint64_t at = 0; at < kPage; at += 8)
        ASSERT_EQ(*memory_.read<uint64_t>(GuestAddress(kCode + at)), 0x1111'1111'0000'0000 + at);
    kvm_regs regs = *vcpu_->regs();
    EXPECT_EQ(regs.rip, kCode + 0x234);
    EXPECT_EQ(regs.rflags & 0x200, 0x200u);
    EXPECT_EQ(regs.rax, 0x1234'5678u);
    EXPECT_EQ(regs.rcx, 0u);
    EXPECT_EQ(vcpu_->mp_state()->mp_state, uint32_t{KVM_MP_STATE_HALTED});
    EXPECT_EQ(vcpu_->sregs()->cs.db, 1);
}

TEST_F(MapAhead, DoesNothingForAGuestInWhichTheVcpuCannotRead) {
    if (kvm_->extension(kvm_abi::kCapPreFaultMemory) > 0)
        GTEST_SKIP() << "this KVM maps pages itself, whatever the guest does";
    const VcpuState good = state_;
    auto expect_nothing = [&](const char* what) {
        auto mapped = map({{GuestAddress(0x20'0000), kPage}});
        ASSERT_TRUE(mapped) << what << ": " << mapped.error().message;
        EXPECT_EQ(*mapped, 0u) << what;
        state_ = good;
    };
    state_.sregs.cr0 = 0x10;
    expect_nothing("in real mode");
    state_.sregs.cr4 |= 0x1000;
    expect_nothing("with five levels of page tables");
    state_.debugregs.dr7 = 1;
    expect_nothing("with a breakpoint");
    state_.sregs.cr3 = 0x10'0000'0000;
    expect_nothing("without page tables");
}

}  // namespace
}  // namespace spore
