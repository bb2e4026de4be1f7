#include "devices/virtio/pci_transport.h"

#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <cassert>

#include "devices/virtio/pci_layout.h"

namespace spore {

namespace {

constexpr uint16_t kVirtioVendor = 0x1af4;
constexpr uint16_t kModernDeviceBase = 0x1040;    // virtio 1.2 §4.1.2.1
constexpr uint16_t kModernSubsystemBase = 0x40;   // §4.1.2.1: 0x40 or higher
constexpr uint8_t kIsrQueue = 1, kIsrConfig = 2;  // §4.1.4.5
constexpr uint32_t kWindowDataBytes = 4;

uint32_t class_code(uint16_t device_id) {
    switch (device_id) {
        case VIRTIO_ID_NET:
            return 0x020000;  // Ethernet controller
        case VIRTIO_ID_BLOCK:
            return 0x018000;  // other mass storage
        case VIRTIO_ID_VSOCK:
            return 0x078000;  // other communication
        default:
            return 0xff0000;  // fits no class
    }
}

PciIdentity identity(uint16_t device_id) {
    return {.vendor = kVirtioVendor,
            .device = static_cast<uint16_t>(kModernDeviceBase + device_id),
            .class_code = class_code(device_id),
            .revision = 1,
            .subsystem_vendor = kVirtioVendor,
            .subsystem = static_cast<uint16_t>(kModernSubsystemBase + device_id)};
}

bool overlap(uint32_t offset, size_t size, uint32_t other, size_t other_size) {
    return offset < other + other_size && other < offset + size;
}

}  // namespace

VirtioPciTransport::VirtioPciTransport(VirtioDevice& device, EventLoop& loop, MsiSink& msi,
                                       DoorbellRegistry& doorbells)
    : PciDevice(identity(device.device_id()), pci_layout::kBarBytes),
      device_(device),
      msix_(static_cast<uint16_t>(device.queues().size() + 1), msi),
      queues_(device.queues().size()),
      doorbell_(loop, doorbells, [this] { device_.kick(); }) {
    add_capabilities();
    finish_reset();
    device_.attach(this);
}

VirtioPciTransport::~VirtioPciTransport() {
    device_.attach(nullptr);
}

TransportCounters VirtioPciTransport::counters() const {
    return {doorbell_failures_, msix_.ignored_messages()};
}

void VirtioPciTransport::add_capabilities() {
    using namespace pci_layout;
    add_virtio_capability(VIRTIO_PCI_CAP_COMMON_CFG, kCommon, sizeof(CommonRegisters));
    add_virtio_capability(VIRTIO_PCI_CAP_NOTIFY_CFG, kNotify, kPartBytes,
                          std::as_bytes(std::span(&kNotifyMultiplier, 1)));
    add_virtio_capability(VIRTIO_PCI_CAP_ISR_CFG, kIsr, 1);
    add_virtio_capability(VIRTIO_PCI_CAP_DEVICE_CFG, kDevice, kPartBytes);
    std::array<std::byte, kWindowDataBytes> data = {};
    window_capability_ = add_virtio_capability(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, data);
    config_.set_writable<uint8_t>(window_capability_ + VIRTIO_PCI_CAP_BAR, 0xff);
    config_.set_writable<uint32_t>(window_capability_ + VIRTIO_PCI_CAP_OFFSET, ~0u);
    config_.set_writable<uint32_t>(window_capability_ + VIRTIO_PCI_CAP_LENGTH, ~0u);
    config_.set_writable<uint32_t>(window_data(), ~0u);
    add_msix_capability();
}

uint32_t VirtioPciTransport::add_virtio_capability(uint8_t type, uint32_t bar_offset, uint32_t size,
                                                   std::span<const std::byte> extra) {
    virtio_pci_cap capability = {};
    capability.cap_len = static_cast<uint8_t>(sizeof(capability) + extra.size());
    capability.cfg_type = type;
    capability.offset = bar_offset;
    capability.length = size;
    std::vector<std::byte> body(sizeof(capability) + extra.size());
    std::memcpy(body.data(), &capability, sizeof(capability));
    std::copy(extra.begin(), extra.end(), body.begin() + sizeof(capability));
    return config_.add_capability(PCI_CAP_ID_VNDR, std::span(body).subspan(PCI_CAP_FLAGS));
}

void VirtioPciTransport::add_msix_capability() {
    std::array<std::byte, PCI_CAP_MSIX_SIZEOF - PCI_CAP_FLAGS> body = {};
    msix_capability_ = config_.add_capability(PCI_CAP_ID_MSIX, body);
    config_.set<uint16_t>(msix_capability_ + PCI_MSIX_FLAGS,
                          static_cast<uint16_t>(msix_.vectors() - 1));
    config_.set_writable<uint16_t>(msix_capability_ + PCI_MSIX_FLAGS,
                                   PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    config_.set<uint32_t>(msix_capability_ + PCI_MSIX_TABLE, pci_layout::kMsixTable);
    config_.set<uint32_t>(msix_capability_ + PCI_MSIX_PBA, pci_layout::kMsixPending);
}

// --- The BAR

void VirtioPciTransport::read_bar(uint32_t offset, std::span<std::byte> bytes) {
    using namespace pci_layout;
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    uint32_t part = offset / kPartBytes * kPartBytes;
    uint32_t within = offset - part;
    bytes = bytes.first(std::min<size_t>(bytes.size(), kPartBytes - within));
    switch (part) {
        case kCommon: {
            CommonRegisters registers = common_registers();
            if (within < registers.size())
                std::memcpy(bytes.data(), registers.data() + within,
                            std::min(bytes.size(), registers.size() - within));
            return;
        }
        case kIsr:
            return read_isr(within, bytes);
        case kDevice:
            return device_.read_config(within, bytes);
        case kMsixTable:
            return msix_.read_table(within, bytes);
        case kMsixPending:
            return msix_.read_pending(within, bytes);
        default:
            return;
    }
}

void VirtioPciTransport::write_bar(uint32_t offset, std::span<const std::byte> bytes) {
    using namespace pci_layout;
    uint32_t part = offset / kPartBytes * kPartBytes;
    uint32_t within = offset - part;
    bytes = bytes.first(std::min<size_t>(bytes.size(), kPartBytes - within));
    switch (part) {
        case kCommon:
            return write_common(within, bytes);
        case kDevice:
            return device_.write_config(within, bytes);
        case kNotify:  // before the doorbell listens, or where it does not
            return device_.kick();
        case kMsixTable:
            return msix_.write_table(within, bytes);
        default:
            return;
    }
}

void VirtioPciTransport::read_isr(uint32_t offset, std::span<std::byte> bytes) {
    if (offset != 0 || bytes.empty())
        return;
    bytes[0] = static_cast<std::byte>(isr_);
    isr_ = 0;  // virtio 1.2 §4.1.4.5.1
}

// --- Configuration space

void VirtioPciTransport::before_config_read(uint32_t offset, size_t size) {
    Window to = window();
    if (to.size == 0 || !overlap(offset, size, window_data(), kWindowDataBytes))
        return;
    std::array<std::byte, kWindowDataBytes> data = {};
    read_bar(to.bar_offset, std::span(data).first(to.size));
    config_.set(window_data(), data);
}

void VirtioPciTransport::after_config_write(uint32_t offset, size_t size) {
    if (overlap(offset, size, msix_capability_ + PCI_MSIX_FLAGS, sizeof(uint16_t)))
        msix_.set_control(config_.get<uint16_t>(msix_capability_ + PCI_MSIX_FLAGS));
    if (overlap(offset, size, PCI_COMMAND, sizeof(uint16_t)))
        update_doorbell();
    Window to = window();
    if (to.size != 0 && overlap(offset, size, window_data(), kWindowDataBytes)) {
        auto data = config_.get<std::array<std::byte, kWindowDataBytes>>(window_data());
        write_bar(to.bar_offset, std::span(data).first(to.size));
    }
}

VirtioPciTransport::Window VirtioPciTransport::window() const {
    auto bar = config_.get<uint8_t>(window_capability_ + VIRTIO_PCI_CAP_BAR);
    auto offset = config_.get<uint32_t>(window_capability_ + VIRTIO_PCI_CAP_OFFSET);
    auto length = config_.get<uint32_t>(window_capability_ + VIRTIO_PCI_CAP_LENGTH);
    bool valid = bar == 0 && (length == 1 || length == 2 || length == 4) && offset % length == 0 &&
                 offset < pci_layout::kBarBytes;
    return valid ? Window{offset, length} : Window{};
}

uint32_t VirtioPciTransport::window_data() const {
    return window_capability_ + sizeof(virtio_pci_cap);
}

// --- InterruptLine

void VirtioPciTransport::queue_used(uint16_t queue) {
    isr_ |= kIsrQueue;
    msix_.signal(queues_[queue].vector);
}

void VirtioPciTransport::config_changed() {
    config_generation_++;
    isr_ |= kIsrConfig;
    msix_.signal(config_vector_);
}

void VirtioPciTransport::device_failed() {
    status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if (!has_status(VIRTIO_CONFIG_S_DRIVER_OK))  // virtio 1.2 §2.1.2: only then is it told
        return;
    isr_ |= kIsrConfig;
    msix_.signal(config_vector_);
}

// --- The doorbell

void VirtioPciTransport::update_doorbell() {
    // With decoding off the guest may be sizing the BAR: what it holds then is no address.
    if (!running_ || !memory_enabled())
        return;
    auto address = bar_address().checked_add(pci_layout::kNotify);
    assert(address);
    // Where two BARs overlap, say, there is no doorbell: write_bar() kicks instead, and it counts.
    if (!doorbell_.listen_at(*address))
        doorbell_failures_++;
}

}  // namespace spore
