#pragma once

// PCI bus 0 as the guest reaches it: configuration through ECAM, and the BARs of its devices.
// UNTRUSTED: every address, width and value is the guest's. Fuzz target: fuzz-pci-transport.

#include <array>
#include <cstdint>
#include <span>

#include "devices/pci/pci_device.h"
#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"
#include "hypervisor/memory/guest_address.h"

namespace spore {

// Loop thread only. Slot 0 is the host bridge; each slot has function 0 only.
class PciBus {
  public:
    PciBus();
    PciBus(const PciBus&) = delete;
    PciBus& operator=(const PciBus&) = delete;

    // Bytes of configuration space that ECAM gives one bus: 32 slots, 8 functions, 4 KiB.
    static constexpr uint32_t kEcamBytes = 1 << 20;

    // Plugs `device` into `slot` (1..31); it stays until the last access. Errors: invalid_argument,
    // already_exists.
    Status attach(uint32_t slot, PciDevice& device);

    // `ecam_offset` counts from the start of the ECAM window (bus, slot, function, register). Any
    // width and alignment; what is not there reads all ones and ignores writes.
    void read_config(uint32_t ecam_offset, std::span<std::byte> bytes);
    void write_config(uint32_t ecam_offset, std::span<const std::byte> bytes);

    // An access to the BAR that decodes `address`; with overlapping BARs the lowest slot's. False
    // if there is none: the caller answers all ones.
    [[nodiscard]] bool read_mmio(GuestAddress address, std::span<std::byte> bytes);
    bool write_mmio(GuestAddress address, std::span<const std::byte> bytes);

  private:
    PciDevice* at(uint32_t ecam_offset) const;

    PciDevice host_bridge_;
    std::array<PciDevice*, limits::kPciSlots> slots_ = {};
};

}  // namespace spore
