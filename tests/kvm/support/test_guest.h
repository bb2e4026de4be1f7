#pragma once

// A VM for guests of a few instructions (guests.S), ready to run.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/kvm/cpuid.h"
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/kvm/vcpu.h"
#include "hypervisor/kvm/vm.h"
#include "hypervisor/memory/guest_memory.h"
#include "tests/kvm/support/needs_kvm.h"

#define DECLARE_GUEST(name)                            \
    extern "C" const std::byte guest_##name[];         \
    extern "C" const std::byte guest_##name##_end[];   \
    inline std::span<const std::byte> name##_guest() { \
        return {guest_##name, guest_##name##_end};     \
    }

DECLARE_GUEST(port_io)
DECLARE_GUEST(string_output)
DECLARE_GUEST(mmio)
DECLARE_GUEST(high_memory)
DECLARE_GUEST(halt)
DECLARE_GUEST(triple_fault)
DECLARE_GUEST(not_emulated)
DECLARE_GUEST(msi)
DECLARE_GUEST(doorbell)
DECLARE_GUEST(count)
DECLARE_GUEST(count_mmio)
DECLARE_GUEST(fill)
DECLARE_GUEST(xsave_size)

namespace spore {

inline constexpr uint16_t kDonePort = 0xe9;
inline constexpr uint64_t kMmio = 0xd0000000;
inline constexpr GuestAddress kGuestCode(0x4000), kGuestData(0x8000);

template <typename T>
T must(Result<T> result) {
    if (!result)
        throw std::runtime_error(result.error().message);  // ends the test, saying why
    return std::move(*result);
}
inline void must(Status status) {
    if (!status)
        throw std::runtime_error(status.error().message);
}

enum class Privilege { ring0, ring3 };

// 16 MiB at 0 and 1 GiB (not touched, so not there) at 4 GiB.
struct TestGuest {
    // Members are in an order whose reverse is that of taking them down.
    Kvm kvm = must(Kvm::open());
    GuestMemory memory;
    Vm vm = must(Vm::create(kvm));
    std::vector<Vcpu> vcpus;

    explicit TestGuest(uint32_t vcpu_count = 1);
    Vcpu& vcpu() { return vcpus[0]; }

    // Puts `code` at kGuestCode and has vCPU `index` start with it.
    void start(std::span<const std::byte> code, Privilege privilege = Privilege::ring0,
               uint32_t index = 0);
    // Runs until an exit to user space, at most some seconds (then the test ends).
    kvm_run& run(uint32_t index = 0);
    // The bytes of an I/O exit.
    static std::span<std::byte> io_bytes(kvm_run& run);

  private:
    void write_page_tables();
};

}  // namespace spore
