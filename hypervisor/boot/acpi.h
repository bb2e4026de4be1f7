#pragma once

// The ACPI tables of a machine: reduced hardware, processors, the PCI host bridge, a serial port.

#include <cstdint>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

struct AcpiTable {
    std::string signature;  // "RSD PTR ", "XSDT", "FACP", "APIC", "MCFG", "DSDT"
    GuestAddress address;
    std::vector<std::byte> bytes;
};

// The tables for `vcpus` (1..limits::kVcpusMax, APIC IDs 0 on), with addresses and checksums. The
// RSDP is first, at layout::kRsdp.
std::vector<AcpiTable> make_acpi_tables(uint32_t vcpus);

// Makes them and puts them into guest memory; and at layout::kResetVector, where a BIOS has its
// entry, real-mode code that does what the FADT's reset register does. A kernel that was built with
// EFI takes reduced hardware for an EFI machine and, finding no EFI, ends there when it reboots.
Status write_acpi_tables(const GuestMemory& memory, uint32_t vcpus);

}  // namespace spore
