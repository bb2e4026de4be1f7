#include "devices/pci/bus.h"

#include <algorithm>
#include <string>

namespace spore {

namespace {

// ECAM (PCI Express 4.0 §7.2.2): bus 27..20, device 19..15, function 14..12, register 11..0.
constexpr uint32_t kSlotShift = 15;
constexpr uint32_t kFunctionMask = 0x7000;
constexpr uint32_t kRegisterMask = 0xfff;
static_assert(PciBus::kEcamBytes >> kSlotShift == limits::kPciSlots);

// The generic PCI Express host bridge of QEMU's list: drivers bind to its class, if at all.
constexpr PciIdentity kHostBridge = {
    .vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000, .revision = 1};

// Configuration accesses are 4 bytes wide at most: a wider one is two.
constexpr size_t kConfigAccessMax = 4;

}  // namespace

PciBus::PciBus() : host_bridge_(kHostBridge, 0) {
    slots_[0] = &host_bridge_;
}

Status PciBus::attach(uint32_t slot, PciDevice& device) {
    if (slot >= slots_.size())
        return fail(Code::invalid_argument, "pci: slot " + std::to_string(slot) + ", at most " +
                                                std::to_string(slots_.size() - 1));
    if (slots_[slot] != nullptr)
        return fail(Code::already_exists, "pci: slot " + std::to_string(slot) + " is taken");
    slots_[slot] = &device;
    return {};
}

PciDevice* PciBus::at(uint32_t ecam_offset) const {
    if (ecam_offset >= kEcamBytes || (ecam_offset & kFunctionMask) != 0)
        return nullptr;
    return slots_[ecam_offset >> kSlotShift];
}

void PciBus::read_config(uint32_t ecam_offset, std::span<std::byte> bytes) {
    PciDevice* device = at(ecam_offset);
    uint32_t offset = ecam_offset & kRegisterMask;
    if (device == nullptr || bytes.size() > kRegisterMask + 1 - offset) {
        std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
        return;
    }
    while (!bytes.empty()) {
        size_t size = std::min(bytes.size(), kConfigAccessMax);
        device->read_config(offset, bytes.first(size));
        bytes = bytes.subspan(size);
        offset += static_cast<uint32_t>(size);
    }
}

void PciBus::write_config(uint32_t ecam_offset, std::span<const std::byte> bytes) {
    PciDevice* device = at(ecam_offset);
    uint32_t offset = ecam_offset & kRegisterMask;
    if (device == nullptr || bytes.size() > kRegisterMask + 1 - offset)
        return;
    while (!bytes.empty()) {
        size_t size = std::min(bytes.size(), kConfigAccessMax);
        device->write_config(offset, bytes.first(size));
        bytes = bytes.subspan(size);
        offset += static_cast<uint32_t>(size);
    }
}

bool PciBus::read_mmio(GuestAddress address, std::span<std::byte> bytes) {
    for (PciDevice* device : slots_) {
        auto offset = device != nullptr ? device->decode(address, bytes.size()) : std::nullopt;
        if (offset) {
            device->read_bar(*offset, bytes);
            return true;
        }
    }
    return false;
}

bool PciBus::write_mmio(GuestAddress address, std::span<const std::byte> bytes) {
    for (PciDevice* device : slots_) {
        auto offset = device != nullptr ? device->decode(address, bytes.size()) : std::nullopt;
        if (offset) {
            device->write_bar(*offset, bytes);
            return true;
        }
    }
    return false;
}

}  // namespace spore
