#pragma once

// Where the parts of a virtio PCI device lie in its BAR 0 (virtio 1.2 §4.1.4): a page each, the
// same for every device. The doorbell is alone in its page.

#include <cstdint>

#include "devices/pci/msix.h"

namespace spore::pci_layout {

inline constexpr uint32_t kPartBytes = 0x1000;

inline constexpr uint32_t kCommon = 0x0000;
inline constexpr uint32_t kIsr = 0x1000;
inline constexpr uint32_t kDevice = 0x2000;
inline constexpr uint32_t kNotify = 0x3000;
inline constexpr uint32_t kMsixTable = 0x4000;
inline constexpr uint32_t kMsixPending = 0x5000;
inline constexpr uint32_t kBarBytes = 0x8000;

static_assert(kMsixPending + kPartBytes <= kBarBytes);
static_assert((kBarBytes & (kBarBytes - 1)) == 0, "PCI 3.0 §6.2.5.1: a BAR's size is a power of 2");
static_assert(MsiX::kVectorsMax * MsiX::kEntryBytes <= kPartBytes);

// All queues of a device share one doorbell, so that one ioeventfd serves the device: the address
// is notify offset + queue_notify_off * multiplier (virtio 1.2 §4.1.4.4).
inline constexpr uint32_t kNotifyMultiplier = 0;

}  // namespace spore::pci_layout
