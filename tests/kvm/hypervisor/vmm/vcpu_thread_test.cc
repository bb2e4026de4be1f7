#include "hypervisor/vmm/vcpu_thread.h"

#include <semaphore>

#include "tests/kvm/support/test_guest.h"

namespace spore {
namespace {

using namespace std::chrono_literals;

constexpr auto kGenerous = 60s;

// Knows what the counting guests must say next, and counts what they say else.
struct CountingHandler : ExitHandler {
    void io_read(uint16_t, std::span<std::byte> bytes) override {
        std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
    }
    void io_write(uint16_t port, std::span<const std::byte> bytes) override {
        uint32_t value = 0;
        std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
        if (port == kDonePort || value != last + 64)
            wrong++;
        last = value;
        accesses++;
    }
    void mmio_read(GuestAddress, std::span<std::byte> bytes) override {
        std::memcpy(bytes.data(), &written, std::min(bytes.size(), sizeof(written)));
        accesses++;
    }
    void mmio_write(GuestAddress, std::span<const std::byte> bytes) override {
        uint64_t value = 0;
        std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
        if (value != written + 1)
            wrong++;
        written = value;
        accesses++;
    }

    uint32_t last = 0;     // by port, each 64th count
    uint64_t written = 0;  // by MMIO, each
    std::atomic<uint64_t> accesses = 0, wrong = 0;
};

struct EndRecorder {
    void operator()(const VmExit& exit) {
        ended = exit;
        done.release();
    }
    VmExit ended;
    std::counting_semaphore<> done{0};
};

void fail_on_end(const VmExit& exit) {
    ADD_FAILURE() << reason_name(exit.reason) << ": " << exit.detail;
}

class VcpuThreadTest : public testing::Test {
  protected:
    void SetUp() override { NEEDS_KVM(); }

    static void park(VcpuThread& thread) {
        std::binary_semaphore parked(0);
        thread.park([&] { parked.release(); });
        ASSERT_TRUE(parked.try_acquire_for(kGenerous)) << "the vCPU did not park";
    }
    static void wait_for(const std::atomic<uint64_t>& counter, uint64_t more) {
        uint64_t target = counter + more;
        auto limit = std::chrono::steady_clock::now() + kGenerous;
        while (counter < target && std::chrono::steady_clock::now() < limit)
            std::this_thread::yield();
        ASSERT_GE(counter, target) << "the guest does not get on";
    }
    static VmExit end_of(TestGuest& guest) {
        CountingHandler handler;
        EndRecorder recorder;
        VcpuThread thread(guest.vcpu(), handler, std::ref(recorder));
        thread.run();
        EXPECT_TRUE(recorder.done.try_acquire_for(kGenerous));
        park(thread);  // one that has ended parks like any other
        return recorder.ended;
    }
};

TEST_F(VcpuThreadTest, EndsByATripleFault) {
    TestGuest guest;
    guest.start(triple_fault_guest());
    auto exit = end_of(guest);
    EXPECT_EQ(exit.reason, VmExit::Reason::triple_fault) << exit.detail;
}

TEST_F(VcpuThreadTest, TellsTheBytesThatCannotBeEmulatedAndWhereTheyAre) {
    TestGuest guest;
    guest.start(not_emulated_guest());
    auto exit = end_of(guest);
    EXPECT_EQ(exit.reason, VmExit::Reason::emulation_failure) << exit.detail;
    EXPECT_NE(exit.detail.find("RIP 0x4005"), std::string::npos) << exit.detail;
    EXPECT_NE(exit.detail.find("f2 0f 38 f0 03"), std::string::npos) << exit.detail;
}

TEST_F(VcpuThreadTest, ParksAVcpuThatHalts) {
    TestGuest guest;
    guest.start(halt_guest());
    CountingHandler handler;
    VcpuThread thread(guest.vcpu(), handler, fail_on_end);
    auto limit = std::chrono::steady_clock::now() + kGenerous;
    do {
        thread.run();
        std::this_thread::sleep_for(2ms);  // whether it halts by then or not, it must park
        park(thread);
    } while (must(guest.vcpu().mp_state()).mp_state != KVM_MP_STATE_HALTED &&
             std::chrono::steady_clock::now() < limit);
    EXPECT_EQ(must(guest.vcpu().mp_state()).mp_state, static_cast<uint32_t>(KVM_MP_STATE_HALTED));
    for (int round = 0; round < 50; round++) {
        thread.run();
        park(thread);
    }
    EXPECT_EQ(must(guest.vcpu().mp_state()).mp_state, static_cast<uint32_t>(KVM_MP_STATE_HALTED))
        << "parking wakes nobody";
}

TEST_F(VcpuThreadTest, ParksAVcpuThatWaitsForItsStart) {
    TestGuest guest(2);
    CountingHandler handler;
    VcpuThread thread(guest.vcpus[1], handler, fail_on_end);
    for (int round = 0; round < 50; round++) {
        thread.run();
        park(thread);
    }
    EXPECT_EQ(must(guest.vcpus[1].mp_state()).mp_state,
              static_cast<uint32_t>(KVM_MP_STATE_UNINITIALIZED));
}

TEST_F(VcpuThreadTest, ParksAtOnceIfItIsParked) {
    TestGuest guest;
    guest.start(count_guest(), Privilege::ring3);
    CountingHandler handler;
    VcpuThread thread(guest.vcpu(), handler, fail_on_end);
    bool parked = false;
    thread.park([&] { parked = true; });
    EXPECT_TRUE(parked);
    EXPECT_EQ(handler.accesses, 0u) << "it ran before it was told to";
}

TEST_F(VcpuThreadTest, StaysParkedIfItIsParkedWhileItDoesItsFirst) {
    TestGuest guest;
    guest.start(count_guest(), Privilege::ring3);
    CountingHandler handler;
    std::binary_semaphore attached(0), parked(0);
    VcpuThread thread(handler, fail_on_end, [&](VcpuThread& self) {
        self.attach(guest.vcpu());
        attached.release();
        EXPECT_TRUE(parked.try_acquire_for(kGenerous));
        return true;
    });
    ASSERT_TRUE(attached.try_acquire_for(kGenerous));
    thread.run();  // as Machine::began() does
    park(thread);
    parked.release();
    std::this_thread::sleep_for(50ms);  // would be in the guest by then
    EXPECT_EQ(thread.first_entry_ns(), 0u) << "it runs, though it was parked";
    thread.run();
    wait_for(handler.accesses, 1);
}

TEST_F(VcpuThreadTest, LosesAndRepeatsNoPortAccessOverManyParks) {
    TestGuest guest;
    CountingHandler handler;
    guest.start(count_guest(), Privilege::ring3);
    VcpuThread thread(guest.vcpu(), handler, fail_on_end);
    for (int round = 0; round < 300; round++) {
        thread.run();
        if (round % 3 == 0)
            wait_for(handler.accesses, 1);
        else if (round % 3 == 1)
            std::this_thread::yield();  // and else: before it can have entered the guest
        park(thread);
        uint64_t before = handler.accesses;
        auto regs = must(guest.vcpu().regs());
        ASSERT_GE(regs.rbx, handler.last);
        ASSERT_LE(regs.rbx, handler.last + 64) << "an access was lost";
        ASSERT_EQ(handler.accesses, before) << "it runs while it is parked";
    }
    EXPECT_EQ(handler.wrong, 0u);
    EXPECT_GT(handler.accesses, 90u);
}

TEST_F(VcpuThreadTest, LosesAndRepeatsNoMmioOverManyParks) {
    TestGuest guest;
    CountingHandler handler;
    guest.start(count_mmio_guest(), Privilege::ring3);
    VcpuThread thread(guest.vcpu(), handler, fail_on_end);
    for (int round = 0; round < 300; round++) {
        thread.run();
        if (round % 3 == 0)
            wait_for(handler.accesses, 1);
        else if (round % 3 == 1)
            std::this_thread::yield();
        park(thread);
        auto regs = must(guest.vcpu().regs());
        ASSERT_GE(regs.rbx, handler.written);
        ASSERT_LE(regs.rbx, handler.written + 1) << "an access was lost";
    }
    EXPECT_EQ(handler.wrong, 0u);
    EXPECT_GT(handler.accesses, 90u);
}

TEST_F(VcpuThreadTest, CarriesOnInAnotherVmWithoutLosingAnAccess) {
    auto guest = std::make_unique<TestGuest>();
    guest->start(count_mmio_guest(), Privilege::ring3);
    CountingHandler handler;
    auto indices = must(guest->kvm.msr_indices());
    for (int round = 0; round < 30; round++) {
        VcpuState state;
        {
            VcpuThread thread(guest->vcpu(), handler, fail_on_end);
            thread.run();
            wait_for(handler.accesses, 3);
            park(thread);
            state = must(guest->vcpu().save(indices));
        }
        guest = std::make_unique<TestGuest>();
        must(guest->memory.write_bytes(kGuestCode, count_mmio_guest()));
        must(guest->vcpu().load(state));
    }
    EXPECT_EQ(handler.wrong, 0u);
}

TEST_F(VcpuThreadTest, ParksFourVcpusTogether) {
    constexpr uint32_t kCount = 4;
    TestGuest guest(kCount);
    CountingHandler handlers[kCount];
    std::vector<std::unique_ptr<VcpuThread>> threads;
    for (uint32_t index = 0; index < kCount; index++) {
        guest.start(count_guest(), Privilege::ring3, index);
        threads.push_back(
            std::make_unique<VcpuThread>(guest.vcpus[index], handlers[index], fail_on_end));
    }
    for (int round = 0; round < 100; round++) {
        std::counting_semaphore<> parked(0);
        for (auto& thread : threads)
            thread->run();
        if (round % 10 == 0)
            wait_for(handlers[round / 10 % kCount].accesses, 1);
        for (auto& thread : threads)
            thread->park([&] { parked.release(); });
        for (uint32_t index = 0; index < kCount; index++)
            ASSERT_TRUE(parked.try_acquire_for(kGenerous));
    }
    for (auto& handler : handlers)
        EXPECT_EQ(handler.wrong, 0u);
}

TEST_F(VcpuThreadTest, KicksThoughTheCreatorBlocksEverySignal) {
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    TestGuest guest;
    guest.start(halt_guest());
    CountingHandler handler;
    VcpuThread thread(guest.vcpu(), handler, fail_on_end);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    for (int round = 0; round < 10; round++) {
        thread.run();
        std::this_thread::sleep_for(2ms);
        park(thread);
    }
}

TEST_F(VcpuThreadTest, StopsFromAnyState) {
    for (int round = 0; round < 40; round++) {
        TestGuest guest;
        guest.start(count_guest(), Privilege::ring3);
        CountingHandler handler;
        VcpuThread thread(guest.vcpu(), handler, fail_on_end);
        if (round % 4 != 0)
            thread.run();
        if (round % 4 == 2)
            wait_for(handler.accesses, 1);
        if (round % 4 == 3)
            thread.park([] {});
    }
}

}  // namespace
}  // namespace spore
