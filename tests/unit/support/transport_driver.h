#pragma once

// A driver for one virtio PCI function, reached through the bus alone, in the order of Linux's
// virtio_pci: capabilities, negotiation, MSI-X, queues, DRIVER_OK. For transports and devices.

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <vector>

#include "devices/pci/bus.h"
#include "devices/virtio/pci_transport.h"
#include "tests/unit/support/fake_driver.h"

namespace spore::test {

// Keeps the interrupts that were sent.
class RecordingMsiSink : public MsiSink {
  public:
    void send(const MsiMessage& message) override { sent.push_back(message); }
    // Takes the interrupts with `data` out of the record; returns how many there were.
    size_t take(uint32_t data) {
        return std::erase_if(sent, [&](const MsiMessage& m) { return m.data == data; });
    }

    std::vector<MsiMessage> sent;
};

// Doorbells without KVM: ring() writes to the eventfd as the kernel would.
class FakeDoorbells : public DoorbellRegistry {
  public:
    Status assign(GuestAddress address, int eventfd) override {
        if (refuse)
            return fail(Code::internal, "refused by the test");
        if (!listening.emplace(address, eventfd).second)
            return fail(Code::already_exists, "two doorbells at one address");
        return {};
    }
    void remove(GuestAddress address, int) override { removed += listening.erase(address); }
    // Whether somebody listens there.
    bool ring(GuestAddress address) {
        auto found = listening.find(address);
        uint64_t one = 1;
        return found != listening.end() && ::write(found->second, &one, sizeof(one)) == sizeof(one);
    }

    std::map<GuestAddress, int> listening;
    size_t removed = 0;
    bool refuse = false;
};

class TransportDriver {
  public:
    TransportDriver(PciBus& bus, uint32_t slot) : bus_(bus), base_(slot << 15) {}

    // --- Plain accesses.
    template <typename T>
    T config_read(uint32_t offset) {
        T value;
        bus_.read_config(base_ + offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    template <typename T>
    void config_write(uint32_t offset, std::type_identity_t<T> value) {
        bus_.write_config(base_ + offset, bytes_of(value));
    }
    // All ones where nobody answers, as the machine does it.
    template <typename T>
    T mmio_read(GuestAddress address) {
        T value;
        auto bytes = std::as_writable_bytes(std::span(&value, 1));
        if (!bus_.read_mmio(address, bytes))
            std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
        return value;
    }
    template <typename T>
    bool mmio_write(GuestAddress address, std::type_identity_t<T> value) {
        return bus_.write_mmio(address, bytes_of(value));
    }
    template <typename T>
    T read(const virtio_pci_cap& part, uint32_t offset) {
        return mmio_read<T>(in_bar(part.offset + offset));
    }
    template <typename T>
    void write(const virtio_pci_cap& part, uint32_t offset, std::type_identity_t<T> value) {
        mmio_write<T>(in_bar(part.offset + offset), value);
    }
    GuestAddress in_bar(uint32_t offset) {
        return GuestAddress((config_read<uint32_t>(PCI_BASE_ADDRESS_0) & ~0xfull) + offset);
    }

    // --- Discovery. False if a part that Linux needs is missing.
    bool discover() {
        uint32_t at = config_read<uint8_t>(PCI_CAPABILITY_LIST);
        for (unsigned count = 0; at != 0 && count < 48; count++) {
            uint8_t id = config_read<uint8_t>(at);
            if (id == PCI_CAP_ID_MSIX)
                msix = at;
            if (id == PCI_CAP_ID_VNDR) {
                auto capability = config_read<virtio_pci_cap>(at);
                capability.padding[0] = static_cast<uint8_t>(at);  // for config_window()
                parts.try_emplace(capability.cfg_type, capability);
            }
            at = config_read<uint8_t>(at + 1);
        }
        if (!parts.contains(VIRTIO_PCI_CAP_COMMON_CFG) ||
            !parts.contains(VIRTIO_PCI_CAP_NOTIFY_CFG) || !parts.contains(VIRTIO_PCI_CAP_ISR_CFG) ||
            !parts.contains(VIRTIO_PCI_CAP_DEVICE_CFG) || msix == 0)
            return false;
        config_write<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        common = parts[VIRTIO_PCI_CAP_COMMON_CFG];
        notify = parts[VIRTIO_PCI_CAP_NOTIFY_CFG];
        isr = parts[VIRTIO_PCI_CAP_ISR_CFG];
        device = parts[VIRTIO_PCI_CAP_DEVICE_CFG];
        return true;
    }

    // --- Common configuration.
    uint8_t status() { return read<uint8_t>(common, VIRTIO_PCI_COMMON_STATUS); }
    void set_status(uint8_t bits) { write<uint8_t>(common, VIRTIO_PCI_COMMON_STATUS, bits); }
    void add_status(uint8_t bits) { set_status(status() | bits); }

    uint64_t device_features() {
        uint64_t features = 0;
        for (uint32_t word = 0; word < 2; word++) {
            write<uint32_t>(common, VIRTIO_PCI_COMMON_DFSELECT, word);
            features |= uint64_t{read<uint32_t>(common, VIRTIO_PCI_COMMON_DF)} << (32 * word);
        }
        return features;
    }
    void set_driver_features(uint64_t features) {
        for (uint32_t word = 0; word < 2; word++) {
            write<uint32_t>(common, VIRTIO_PCI_COMMON_GFSELECT, word);
            write<uint32_t>(common, VIRTIO_PCI_COMMON_GF,
                            static_cast<uint32_t>(features >> (32 * word)));
        }
    }
    // From reset to FEATURES_OK with what is both offered and in `wanted`; whether it was accepted.
    bool negotiate(uint64_t wanted = ~uint64_t{0}) {
        add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        add_status(VIRTIO_CONFIG_S_DRIVER);
        set_driver_features(device_features() & wanted);
        add_status(VIRTIO_CONFIG_S_FEATURES_OK);
        return (status() & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
    }

    // Vector `index` sends data kVectorData + index to CPU 0.
    static constexpr uint32_t kVectorData = 0x40;
    static constexpr uint32_t kVectorAddress = 0xfee00000;
    void enable_msix() {
        auto vectors = (config_read<uint16_t>(msix + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
        config_write<uint16_t>(msix + PCI_MSIX_FLAGS,
                               PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
        for (uint32_t index = 0; index < static_cast<uint32_t>(vectors); index++)
            set_vector(index, kVectorAddress, kVectorData + index, false);
        config_write<uint16_t>(msix + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE);
    }
    GuestAddress vector_entry(uint32_t index) {
        return in_bar((config_read<uint32_t>(msix + PCI_MSIX_TABLE) & ~7u) + 16 * index);
    }
    void set_vector(uint32_t index, uint64_t address, uint32_t data, bool masked) {
        GuestAddress entry = vector_entry(index);
        mmio_write<uint32_t>(entry, static_cast<uint32_t>(address));
        mmio_write<uint32_t>(*entry.checked_add(4), static_cast<uint32_t>(address >> 32));
        mmio_write<uint32_t>(*entry.checked_add(8), data);
        mmio_write<uint32_t>(*entry.checked_add(12), masked);
    }

    void select_queue(uint16_t index) {
        write<uint16_t>(common, VIRTIO_PCI_COMMON_Q_SELECT, index);
    }
    uint16_t queue_size(uint16_t index) {
        select_queue(index);
        return read<uint16_t>(common, VIRTIO_PCI_COMMON_Q_SIZE);
    }
    // Tells the device of `state`'s rings; returns the vector that it took.
    uint16_t set_up_queue(uint16_t index, const QueueState& state, uint16_t vector) {
        select_queue(index);
        write<uint16_t>(common, VIRTIO_PCI_COMMON_Q_SIZE, state.size);
        write_halves(VIRTIO_PCI_COMMON_Q_DESCLO, state.descriptor_table);
        write_halves(VIRTIO_PCI_COMMON_Q_AVAILLO, state.available_ring);
        write_halves(VIRTIO_PCI_COMMON_Q_USEDLO, state.used_ring);
        write<uint16_t>(common, VIRTIO_PCI_COMMON_Q_MSIX, vector);
        write<uint16_t>(common, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
        return read<uint16_t>(common, VIRTIO_PCI_COMMON_Q_MSIX);
    }
    void set_config_vector(uint16_t vector) {
        write<uint16_t>(common, VIRTIO_PCI_COMMON_MSIX, vector);
    }

    // Everything up to DRIVER_OK: vector 0 for the configuration, 1 + i for queue i. Whether the
    // device then runs. `queues`: one for each of the device's, in order.
    bool start(std::span<const QueueState> queues, uint64_t wanted = ~uint64_t{0}) {
        if (!discover())
            return false;
        set_status(0);
        if (!negotiate(wanted))
            return false;
        enable_msix();
        set_config_vector(0);
        for (uint16_t index = 0; index < queues.size(); index++)
            set_up_queue(index, queues[index], static_cast<uint16_t>(index + 1));
        add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        return status() == (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                            VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
    }

    // Where queue `index` is kicked, and a kick that arrives as an exit.
    GuestAddress doorbell(uint16_t index = 0) {
        select_queue(index);
        auto offset = read<uint16_t>(common, VIRTIO_PCI_COMMON_Q_NOFF);
        auto multiplier = config_read<uint32_t>(notify.padding[0] + VIRTIO_PCI_NOTIFY_CAP_MULT);
        return in_bar(notify.offset + offset * multiplier);
    }
    void kick(uint16_t index = 0) { mmio_write<uint16_t>(doorbell(index), index); }

    // An access of 1, 2 or 4 bytes through VIRTIO_PCI_CAP_PCI_CFG.
    uint32_t window_read(uint32_t bar_offset, uint32_t size) {
        return config_read<uint32_t>(aim_window(bar_offset, size));
    }
    void window_write(uint32_t bar_offset, uint32_t size, uint32_t value) {
        config_write<uint32_t>(aim_window(bar_offset, size), value);
    }

    std::map<uint8_t, virtio_pci_cap> parts;  // by cfg_type; padding[0] is where it was found
    virtio_pci_cap common = {}, notify = {}, isr = {}, device = {};
    uint32_t msix = 0;  // offset of the capability

  private:
    void write_halves(uint32_t offset, uint64_t value) {
        write<uint32_t>(common, offset, static_cast<uint32_t>(value));
        write<uint32_t>(common, offset + 4, static_cast<uint32_t>(value >> 32));
    }
    uint32_t aim_window(uint32_t bar_offset, uint32_t size) {
        uint32_t at = parts.at(VIRTIO_PCI_CAP_PCI_CFG).padding[0];
        config_write<uint8_t>(at + VIRTIO_PCI_CAP_BAR, 0);
        config_write<uint32_t>(at + VIRTIO_PCI_CAP_OFFSET, bar_offset);
        config_write<uint32_t>(at + VIRTIO_PCI_CAP_LENGTH, size);
        return at + static_cast<uint32_t>(sizeof(virtio_pci_cap));
    }

    PciBus& bus_;
    uint32_t base_;
};

}  // namespace spore::test
