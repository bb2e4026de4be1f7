#pragma once

// Virtio over PCI (virtio 1.2 §4.1), modern only: makes a VirtioDevice a PCI function.
// UNTRUSTED: every register access is the guest's, a VirtioPciState is a file's. Fuzz target:
// fuzz-pci-transport.

#include <linux/virtio_pci.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "devices/pci/msix.h"
#include "devices/pci/pci_device.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci_transport_doorbell.h"

namespace spore {

// All there is to save of the transport and of the device's queues. Plain values.
struct VirtioPciState {
    std::vector<uint8_t> config;  // configuration space: BAR, command, MSI-X control
    MsiXState msix;
    uint8_t device_status = 0;
    uint8_t isr = 0;
    uint8_t config_generation = 0;
    uint32_t device_feature_select = 0;
    uint32_t driver_feature_select = 0;
    uint64_t driver_features = 0;
    uint16_t config_vector = VIRTIO_MSI_NO_VECTOR;
    uint16_t queue_select = 0;
    std::vector<QueueState> queues;
    std::vector<uint16_t> queue_vectors;  // as many as queues

    bool operator==(const VirtioPciState&) const = default;
};

struct TransportCounters {
    uint64_t doorbell_failures =
        0;  // the host refused: kicks then arrive as exits, correct but slow
    uint64_t ignored_messages = 0;  // interrupts whose address is none
};

// Loop thread only, the constructor and destructor included. Destroy it after EventLoop::drain(),
// and its device after it.
class VirtioPciTransport : public PciDevice, private InterruptLine {
  public:
    // One MSI-X vector for each queue of `device` and one for its configuration. Everything given
    // must outlive the transport.
    VirtioPciTransport(VirtioDevice& device, EventLoop& loop, MsiSink& msi,
                       DoorbellRegistry& doorbells);
    ~VirtioPciTransport() override;

    VirtioDevice& device() { return device_; }
    TransportCounters counters() const;

    // With the device quiesced or idle (asserted) and no reset under way.
    VirtioPciState save() const;
    // Onto a transport fresh from its constructor. Checks everything, registers the doorbell if
    // the driver is running (a refusal counts, as ever), and leaves the device quiesced:
    // VirtioDevice::resume() starts it. Errors: corrupt, naming the field; the transport and its
    // device are then to be thrown away.
    Status restore(const VirtioPciState& state);

    void read_bar(uint32_t offset, std::span<std::byte> bytes) override;
    void write_bar(uint32_t offset, std::span<const std::byte> bytes) override;

  private:
    // What the driver set up of one queue. Once the device runs, the device's Queue has the truth
    // about an enabled one.
    struct QueueRegisters {
        QueueState state;  // state.ready is queue_enable
        uint16_t vector = VIRTIO_MSI_NO_VECTOR;
    };
    using CommonRegisters = std::array<std::byte, VIRTIO_PCI_COMMON_Q_RESET + sizeof(uint16_t)>;

    // InterruptLine
    void queue_used(uint16_t queue) override;
    void config_changed() override;
    void device_failed() override;

    // PciDevice
    void before_config_read(uint32_t offset, size_t size) override;
    void after_config_write(uint32_t offset, size_t size) override;

    void add_capabilities();
    uint32_t add_virtio_capability(uint8_t type, uint32_t bar_offset, uint32_t size,
                                   std::span<const std::byte> extra = {});
    void add_msix_capability();
    // VIRTIO_PCI_CAP_PCI_CFG: the window to the BAR in configuration space (§4.1.4.9).
    struct Window {
        uint32_t bar_offset = 0;
        uint32_t size = 0;  // 1, 2 or 4; 0 if the driver has set it up wrongly
    };
    Window window() const;
    uint32_t window_data() const;  // offset of its data register

    CommonRegisters common_registers() const;
    void read_isr(uint32_t offset, std::span<std::byte> bytes);
    void write_common(uint32_t offset, std::span<const std::byte> bytes);
    void write_queue_register(uint32_t offset, size_t size, uint64_t value);
    void write_queue_address(uint32_t offset, size_t size, uint64_t value);
    void write_driver_feature(uint32_t value);
    uint16_t valid_vector(uint64_t value) const;

    void write_status(uint8_t value);
    void start_reset();
    void finish_reset();
    void activate();
    bool configure_queues();
    void update_doorbell();

    Status check(const VirtioPciState& state) const;
    Status check_queues(const VirtioPciState& state) const;
    Status restore_device(const VirtioPciState& state);
    bool has_status(uint8_t bits) const { return (status_ & bits) == bits; }
    // Whether the device works, or would after resume(): its queues have the live indices.
    bool running_ = false;

    VirtioDevice& device_;
    MsiX msix_;
    uint32_t msix_capability_ = 0;  // offsets in configuration space
    uint32_t window_capability_ = 0;
    uint8_t status_ = 0;
    bool resetting_ = false;
    uint8_t isr_ = 0;
    uint8_t config_generation_ = 0;
    uint32_t device_feature_select_ = 0;
    uint32_t driver_feature_select_ = 0;
    uint64_t driver_features_ = 0;
    uint16_t config_vector_ = VIRTIO_MSI_NO_VECTOR;
    uint16_t queue_select_ = 0;
    std::vector<QueueRegisters> queues_;
    uint64_t doorbell_failures_ = 0;
    Doorbell doorbell_;
};

}  // namespace spore
