#pragma once

// Where everything lies in the guest's physical address space and among its I/O ports.

#include <cstdint>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/memory/guest_address.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore::layout {

// --- Memory: from 0 up to the hole, and from the hole's end on.
inline constexpr uint64_t kHoleStart = 0xC000'0000;
inline constexpr uint64_t kHoleEnd = 4 * limits::kGiB;
inline constexpr uint64_t kPageBytes = 4096;

// --- The first MiB. What is written there for the boot, the kernel reads before it hands the pages
// out: only the ACPI tables stay and are reserved.
inline constexpr uint64_t kGdt = 0x500;
inline constexpr uint64_t kGdtBytes = 4 * 8;
inline constexpr uint64_t kStartInfo = 0x1000;  // PVH: start info, module list, memory map
inline constexpr uint64_t kStartInfoBytes = kPageBytes;
inline constexpr uint64_t kCommandLine = 0x2000;
inline constexpr uint64_t kCommandLineBytes = kPageBytes;
inline constexpr uint64_t kZeroPage = 0x7000;  // bzImage: struct boot_params
inline constexpr uint64_t kZeroPageBytes = kPageBytes;
// bzImage: a PML4, a PDPT and four page directories map the first 4 GiB onto themselves.
inline constexpr uint64_t kPageTables = 0x9000;
inline constexpr uint64_t kPageTablesBytes = 6 * kPageBytes;
inline constexpr uint64_t kConventionalEnd = 0xA'0000;
// A kernel that is not told of the RSDP looks for it from 0xE0000 to 0xFFFFF (ACPI 6.5 §5.2.5.1).
inline constexpr uint64_t kRsdp = 0xE'0000;
inline constexpr uint64_t kAcpiTables = 0xE'0040;
inline constexpr uint64_t kFirmwareStart = 0xE'0000;
// Where a real-mode reset, F000:FFF0, goes: write_acpi_tables().
inline constexpr uint64_t kResetVector = 0xF'FFF0;
inline constexpr uint64_t kFirmwareEnd = 0x10'0000;
// Kernels lie from here on.
inline constexpr uint64_t kKernelMin = 0x10'0000;

// --- The hole.
inline constexpr uint64_t kPciMmioStart = 0xD000'0000;  // 32-bit BARs
inline constexpr uint64_t kPciMmioBytes = 0x1000'0000;
inline constexpr uint64_t kEcamStart = 0xE000'0000;  // configuration space of bus 0, MCFG
inline constexpr uint64_t kEcamBytes = limits::kMiB;
inline constexpr uint64_t kLapic = 0xFEE0'0000;
// Pages that KVM itself takes on Intel hosts: KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR.
inline constexpr uint64_t kKvmIdentityMap = 0xFFFB'C000;
inline constexpr uint64_t kKvmTss = 0xFFFB'D000;
inline constexpr uint64_t kKvmTssBytes = 3 * kPageBytes;

// --- I/O ports.
inline constexpr uint16_t kSerialPort = 0x3F8;  // COM1
inline constexpr uint16_t kSerialPorts = 8;
// ACPI of reduced hardware (ACPI 6.5 §4.8.3.7): one byte each.
inline constexpr uint16_t kSleepControlPort = 0x600;
inline constexpr uint16_t kSleepStatusPort = 0x601;
inline constexpr uint16_t kResetPort = 0x602;
inline constexpr uint8_t kSleepTypeS5 = 5;       // bits 2..4 of the sleep control register
inline constexpr uint8_t kSleepEnable = 1 << 5;  // its SLP_EN
inline constexpr uint8_t kResetValue = 1;        // what the guest writes to kResetPort
// Whether `value`, written to kSleepControlPort, powers the machine off.
constexpr bool is_power_off(uint8_t value) {
    return (value & kSleepEnable) != 0 && (value >> 2 & 7) == kSleepTypeS5;
}

static_assert(kGdt + kGdtBytes <= kStartInfo);
static_assert(kStartInfo + kStartInfoBytes <= kCommandLine);
static_assert(limits::kCommandLineBytesMax <= kCommandLineBytes);
static_assert(kCommandLine + kCommandLineBytes <= kZeroPage);
static_assert(kZeroPage + kZeroPageBytes <= kPageTables);
static_assert(kPageTables % kPageBytes == 0);
static_assert(kPageTables + kPageTablesBytes <= kConventionalEnd);
static_assert(kConventionalEnd <= kFirmwareStart && kRsdp >= kFirmwareStart && kRsdp % 16 == 0);
static_assert(kFirmwareEnd <= kKernelMin);
static_assert(kKernelMin < limits::kMemoryBytesMin, "every machine has all of the first MiB");
static_assert(kHoleStart <= kPciMmioStart);
static_assert(kPciMmioStart + kPciMmioBytes <= kEcamStart);
static_assert(kEcamStart % (256 * limits::kMiB) == 0, "aligned as for all 256 buses");
static_assert(kEcamStart + kEcamBytes <= kLapic);
static_assert(kLapic + kPageBytes <= kKvmIdentityMap);
static_assert(kKvmIdentityMap + kPageBytes <= kKvmTss);
static_assert(kKvmTss + kKvmTssBytes <= kHoleEnd);
static_assert(limits::kMemoryBytesMax + (kHoleEnd - kHoleStart) <= uint64_t{1} << 46);

}  // namespace spore::layout

namespace spore {

// The RAM of a machine with `bytes` of memory (a multiple of 4 KiB): below the hole, above it.
std::vector<MemoryExtent> memory_extents(uint64_t bytes);

// Types of the E820 map and of PVH's memory map alike.
enum class MemoryType : uint32_t { ram = 1, reserved = 2 };

struct MemoryMapEntry {
    uint64_t start = 0;
    uint64_t size = 0;
    MemoryType type = MemoryType::ram;
};

// What the guest is told of its memory, ascending and disjoint: RAM, the ACPI tables and the ECAM
// window (Linux refuses an MCFG table whose window is not reserved here).
std::vector<MemoryMapEntry> memory_map(uint64_t bytes);

}  // namespace spore
