// VirtioPciTransport's common configuration registers (virtio 1.2 §4.1.4.3) and device status.

#include <linux/virtio_config.h>

#include <cassert>

#include "devices/virtio/pci_transport.h"

namespace spore {

namespace {

// Bits of device_status that are the driver's to set (virtio 1.2 §2.1).
constexpr uint8_t kDriverStatusBits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                      VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
                                      VIRTIO_CONFIG_S_FAILED;

uint32_t word_of(uint64_t features, uint32_t select) {
    return select < 2 ? static_cast<uint32_t>(features >> (32 * select)) : 0;
}

}  // namespace

VirtioPciTransport::CommonRegisters VirtioPciTransport::common_registers() const {
    CommonRegisters registers = {};
    auto put = [&](size_t offset, auto value) {
        std::memcpy(registers.data() + offset, &value, sizeof(value));
    };
    put(VIRTIO_PCI_COMMON_DFSELECT, device_feature_select_);
    put(VIRTIO_PCI_COMMON_DF, word_of(device_.offered_features(), device_feature_select_));
    put(VIRTIO_PCI_COMMON_GFSELECT, driver_feature_select_);
    put(VIRTIO_PCI_COMMON_GF, word_of(driver_features_, driver_feature_select_));
    put(VIRTIO_PCI_COMMON_MSIX, config_vector_);
    put(VIRTIO_PCI_COMMON_NUMQ, static_cast<uint16_t>(queues_.size()));
    put(VIRTIO_PCI_COMMON_STATUS, status_);
    put(VIRTIO_PCI_COMMON_CFGGENERATION, config_generation_);
    put(VIRTIO_PCI_COMMON_Q_SELECT, queue_select_);
    if (queue_select_ >= queues_.size()) {  // a size of 0 says that there is none
        put(VIRTIO_PCI_COMMON_Q_MSIX, uint16_t{VIRTIO_MSI_NO_VECTOR});
        return registers;
    }
    const QueueRegisters& queue = queues_[queue_select_];
    put(VIRTIO_PCI_COMMON_Q_SIZE, queue.state.size);
    put(VIRTIO_PCI_COMMON_Q_MSIX, queue.vector);
    put(VIRTIO_PCI_COMMON_Q_ENABLE, uint16_t{queue.state.ready});
    // queue_notify_off, queue_notify_data and queue_reset are 0.
    put(VIRTIO_PCI_COMMON_Q_DESCLO, queue.state.descriptor_table);
    put(VIRTIO_PCI_COMMON_Q_AVAILLO, queue.state.available_ring);
    put(VIRTIO_PCI_COMMON_Q_USEDLO, queue.state.used_ring);
    return registers;
}

void VirtioPciTransport::write_common(uint32_t offset, std::span<const std::byte> bytes) {
    // A driver accesses fields with their own width (§4.1.3.1); anything else has no effect. During
    // a reset it waits for the status to become 0.
    if (bytes.size() > sizeof(uint64_t) || resetting_)
        return;
    uint64_t value = 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    auto is = [&](uint32_t field, size_t width) {
        return offset == field && bytes.size() == width;
    };
    if (is(VIRTIO_PCI_COMMON_DFSELECT, 4))
        device_feature_select_ = static_cast<uint32_t>(value);
    else if (is(VIRTIO_PCI_COMMON_GFSELECT, 4))
        driver_feature_select_ = static_cast<uint32_t>(value);
    else if (is(VIRTIO_PCI_COMMON_GF, 4))
        write_driver_feature(static_cast<uint32_t>(value));
    else if (is(VIRTIO_PCI_COMMON_MSIX, 2))
        config_vector_ = valid_vector(value);
    else if (is(VIRTIO_PCI_COMMON_STATUS, 1))
        write_status(static_cast<uint8_t>(value));
    else if (is(VIRTIO_PCI_COMMON_Q_SELECT, 2))
        queue_select_ = static_cast<uint16_t>(value);
    else if (offset >= VIRTIO_PCI_COMMON_Q_SIZE && queue_select_ < queues_.size())
        write_queue_register(offset, bytes.size(), value);
}

void VirtioPciTransport::write_driver_feature(uint32_t value) {
    if (has_status(VIRTIO_CONFIG_S_FEATURES_OK) || driver_feature_select_ >= 2)
        return;  // settled; or bits that nobody offered, of which none is kept
    unsigned shift = 32 * driver_feature_select_;
    driver_features_ &= ~(uint64_t{0xffffffff} << shift);
    driver_features_ |= uint64_t{value} << shift;
}

// §4.1.5.1.2: a vector that cannot be mapped reads back as none.
uint16_t VirtioPciTransport::valid_vector(uint64_t value) const {
    return value < msix_.vectors() ? static_cast<uint16_t>(value) : VIRTIO_MSI_NO_VECTOR;
}

void VirtioPciTransport::write_queue_register(uint32_t offset, size_t size, uint64_t value) {
    QueueRegisters& queue = queues_[queue_select_];
    if (offset == VIRTIO_PCI_COMMON_Q_MSIX && size == 2) {
        queue.vector = valid_vector(value);
        return;
    }
    // The rest is set up once, before the queue and the device are enabled (§4.1.4.3.2); without
    // VIRTIO_F_RING_RESET only a device reset takes it back.
    if (queue.state.ready || has_status(VIRTIO_CONFIG_S_DRIVER_OK))
        return;
    if (offset == VIRTIO_PCI_COMMON_Q_SIZE && size == 2)
        queue.state.size = static_cast<uint16_t>(value);
    else if (offset == VIRTIO_PCI_COMMON_Q_ENABLE && size == 2)
        queue.state.ready = value == 1;
    else if (offset >= VIRTIO_PCI_COMMON_Q_DESCLO && offset < VIRTIO_PCI_COMMON_Q_NDATA)
        write_queue_address(offset - VIRTIO_PCI_COMMON_Q_DESCLO, size, value);
}

// `offset` counts from queue_desc: three fields of 64 bits, written whole or in halves (§4.1.3.1).
void VirtioPciTransport::write_queue_address(uint32_t offset, size_t size, uint64_t value) {
    QueueState& state = queues_[queue_select_].state;
    uint64_t* const fields[] = {&state.descriptor_table, &state.available_ring, &state.used_ring};
    uint64_t& field = *fields[offset / 8];
    if (size == 8 && offset % 8 == 0) {
        field = value;
    } else if (size == 4 && offset % 4 == 0) {
        unsigned shift = offset % 8 * 8;
        field = (field & ~(uint64_t{0xffffffff} << shift)) | value << shift;
    }
}

// --- Device status

void VirtioPciTransport::write_status(uint8_t value) {
    if (value == 0) {
        start_reset();
        return;
    }
    // Bits once set stay so until a reset (§2.1.1).
    uint8_t added = value & ~status_ & kDriverStatusBits;
    status_ |=
        added & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED);
    // Features that will not do leave FEATURES_OK clear, for the driver to see (§3.1.1).
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && device_.set_features(driver_features_))
        status_ |= VIRTIO_CONFIG_S_FEATURES_OK;
    if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && has_status(VIRTIO_CONFIG_S_FEATURES_OK))
        activate();
}

void VirtioPciTransport::start_reset() {
    resetting_ = true;  // the status keeps its value until nothing is in flight any more
    device_.reset([this] { finish_reset(); });
}

void VirtioPciTransport::finish_reset() {
    running_ = false;
    resetting_ = false;
    status_ = 0;
    isr_ = 0;
    device_feature_select_ = driver_feature_select_ = 0;
    driver_features_ = 0;
    config_vector_ = VIRTIO_MSI_NO_VECTOR;
    queue_select_ = 0;
    for (size_t index = 0; index < queues_.size(); index++) {
        queues_[index] = {};
        queues_[index].state.size = device_.queues()[index].size_max();
    }
    // The doorbell goes on listening: a kick means nothing to a device that is reset, taking the
    // doorbell away would cost milliseconds, and the next driver wants it in the same place.
}

void VirtioPciTransport::activate() {
    status_ |= VIRTIO_CONFIG_S_DRIVER_OK;
    if (!configure_queues())
        return;
    running_ = true;
    update_doorbell();
    device_.activate();
}

// False: one cannot be, and DEVICE_NEEDS_RESET is set.
bool VirtioPciTransport::configure_queues() {
    bool event_index = device_.has_feature(kFeatureEventIndex);
    for (size_t index = 0; index < queues_.size(); index++) {
        if (!queues_[index].state.ready)
            continue;
        auto done = device_.queues()[index].configure(queues_[index].state, event_index);
        if (!done) {
            device_.device_error(done.error(), static_cast<uint16_t>(index));
            return false;
        }
    }
    return true;
}

}  // namespace spore
