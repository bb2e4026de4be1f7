#include "devices/pci/pci_device.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <cassert>

namespace spore {

PciDevice::PciDevice(const PciIdentity& identity, uint32_t bar_bytes) : bar_bytes_(bar_bytes) {
    config_.set<uint16_t>(PCI_VENDOR_ID, identity.vendor);
    config_.set<uint16_t>(PCI_DEVICE_ID, identity.device);
    config_.set<uint32_t>(PCI_CLASS_REVISION, identity.class_code << 8 | identity.revision);
    config_.set<uint8_t>(PCI_HEADER_TYPE, PCI_HEADER_TYPE_NORMAL);
    config_.set<uint16_t>(PCI_SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor);
    config_.set<uint16_t>(PCI_SUBSYSTEM_ID, identity.subsystem);
    // Notes of the guest's software to itself, without an effect.
    config_.set_writable<uint8_t>(PCI_CACHE_LINE_SIZE, 0xff);
    config_.set_writable<uint8_t>(PCI_INTERRUPT_LINE, 0xff);
    // Bus mastering is kept but not enforced: rings and MSI-X have enables of their own.
    config_.set_writable<uint16_t>(PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    if (bar_bytes == 0)
        return;
    assert(bar_bytes >= 4096 && bar_bytes <= (256u << 20) && (bar_bytes & (bar_bytes - 1)) == 0);
    config_.set_writable<uint16_t>(
        PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    // 32 bits, not prefetchable. Sizing works by the address bits that stay 0 (PCI 3.0 §6.2.5.1).
    config_.set_writable<uint32_t>(PCI_BASE_ADDRESS_0, ~(bar_bytes - 1));
}

void PciDevice::assign_bar(GuestAddress address) {
    assert(bar_bytes_ != 0 && address.is_aligned(bar_bytes_) && address.value() >> 32 == 0);
    config_.set<uint32_t>(PCI_BASE_ADDRESS_0, static_cast<uint32_t>(address.value()));
}

GuestAddress PciDevice::bar_address() const {
    return GuestAddress(config_.get<uint32_t>(PCI_BASE_ADDRESS_0) & PCI_BASE_ADDRESS_MEM_MASK);
}

bool PciDevice::memory_enabled() const {
    return (config_.get<uint16_t>(PCI_COMMAND) & PCI_COMMAND_MEMORY) != 0;
}

std::optional<uint32_t> PciDevice::decode(GuestAddress address, size_t size) const {
    if (!memory_enabled() || address < bar_address())
        return std::nullopt;
    uint64_t offset = address.value() - bar_address().value();
    if (offset >= bar_bytes_ || size > bar_bytes_ - offset)
        return std::nullopt;
    return static_cast<uint32_t>(offset);
}

void PciDevice::read_config(uint32_t offset, std::span<std::byte> bytes) {
    before_config_read(offset, bytes.size());
    config_.read(offset, bytes);
}

void PciDevice::write_config(uint32_t offset, std::span<const std::byte> bytes) {
    config_.write(offset, bytes);
    after_config_write(offset, bytes.size());
}

void PciDevice::read_bar(uint32_t, std::span<std::byte> bytes) {
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
}

void PciDevice::write_bar(uint32_t, std::span<const std::byte>) {}

}  // namespace spore
