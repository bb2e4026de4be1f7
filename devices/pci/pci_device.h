#pragma once

// One PCI function with a type 0 header, no interrupt pin and at most one memory BAR.

#include <cstdint>
#include <optional>
#include <span>

#include "devices/pci/config_space.h"
#include "hypervisor/memory/guest_address.h"

namespace spore {

struct PciIdentity {
    uint16_t vendor = 0;
    uint16_t device = 0;
    uint32_t class_code = 0;  // 24 bits: base class, subclass, programming interface
    uint8_t revision = 0;
    uint16_t subsystem_vendor = 0;
    uint16_t subsystem = 0;
};

// Loop thread only.
class PciDevice {
  public:
    // `bar_bytes`: size of BAR 0, a power of 2 from 4 KiB to 256 MiB, or 0 for none.
    PciDevice(const PciIdentity& identity, uint32_t bar_bytes);
    virtual ~PciDevice() = default;
    PciDevice(const PciDevice&) = delete;
    PciDevice& operator=(const PciDevice&) = delete;

    // Places BAR 0, as firmware would: before the guest runs, below 4 GiB, aligned to its size
    // (asserted). The guest may move it; decoding follows what the register holds.
    void assign_bar(GuestAddress address);
    GuestAddress bar_address() const;
    uint32_t bar_bytes() const { return bar_bytes_; }
    // Whether the guest has memory decoding switched on.
    bool memory_enabled() const;
    // The offset within BAR 0 of `size` bytes at `address`, if all of them are there and decoded.
    std::optional<uint32_t> decode(GuestAddress address, size_t size) const;

    // Driver's accesses: 1 to 4 bytes, any alignment.
    void read_config(uint32_t offset, std::span<std::byte> bytes);
    void write_config(uint32_t offset, std::span<const std::byte> bytes);
    // Any width and offset within the BAR, the end included.
    virtual void read_bar(uint32_t offset, std::span<std::byte> bytes);
    virtual void write_bar(uint32_t offset, std::span<const std::byte> bytes);

  protected:
    // Registers with an effect: before they are read, and after they were written.
    virtual void before_config_read(uint32_t /*offset*/, size_t /*size*/) {}
    virtual void after_config_write(uint32_t /*offset*/, size_t /*size*/) {}

    ConfigSpace config_;

  private:
    uint32_t bar_bytes_;
};

}  // namespace spore
