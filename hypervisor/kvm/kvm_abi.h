#pragma once

// <linux/kvm.h> declares its flexible arrays by a macro whose empty struct has size 1 in C++, so
// that sizeof(kvm_msrs) and sizeof(kvm_cpuid2), and the ioctl numbers computed from them, come out
// wrong. Here are the containers and the numbers as the kernel has them.

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace spore::kvm_abi {

struct MsrsHeader {
    uint32_t count;
    uint32_t padding;
};
struct CpuidHeader {
    uint32_t count;
    uint32_t padding;
};
struct MsrListHeader {
    uint32_t count;
};
static_assert(sizeof(MsrsHeader) == 8 && sizeof(CpuidHeader) == 8 && sizeof(MsrListHeader) == 4);
static_assert(sizeof(kvm_msr_entry) == 16 && sizeof(kvm_cpuid_entry2) == 40);

inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, CpuidHeader);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, CpuidHeader);
inline constexpr unsigned long kGetCpuid2 = _IOWR(KVMIO, 0x91, CpuidHeader);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, MsrsHeader);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, MsrsHeader);
inline constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, MsrListHeader);
// kvm_xsave ends in such an array too; the numbers carry the size of its fixed part.
struct XsaveHeader {
    uint32_t region[1024];
};
static_assert(sizeof(XsaveHeader) == 4096);
inline constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, XsaveHeader);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, XsaveHeader);
inline constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, XsaveHeader);

// Since Linux 6.10, which the installed header may be older than.
inline constexpr unsigned kCapPreFaultMemory = 236;
struct PreFaultMemory {
    uint64_t start;
    uint64_t size;
    uint64_t flags;
    uint64_t padding[5];
};
static_assert(sizeof(PreFaultMemory) == 64);
inline constexpr unsigned long kPreFaultMemory = _IOWR(KVMIO, 0xd5, PreFaultMemory);

// A header and room for `N` entries behind it, contiguous as the kernel reads them.
template <typename Header, typename Entry, size_t N>
struct Table {
    Header header = {};
    std::array<Entry, N> entries = {};
};

inline constexpr size_t kCpuidEntriesMax = 256;  // KVM_MAX_CPUID_ENTRIES
inline constexpr size_t kMsrsMax = 512;
using CpuidTable = Table<CpuidHeader, kvm_cpuid_entry2, kCpuidEntriesMax>;
using MsrTable = Table<MsrsHeader, kvm_msr_entry, kMsrsMax>;
using MsrIndexTable = Table<MsrListHeader, uint32_t, kMsrsMax>;
static_assert(offsetof(CpuidTable, entries) == 8 && offsetof(MsrTable, entries) == 8);
static_assert(offsetof(MsrIndexTable, entries) == 4);

}  // namespace spore::kvm_abi
