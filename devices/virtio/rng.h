#pragma once

// The entropy device (virtio 1.2 §5.4): the host's random bytes for the guest.

#include "devices/virtio/device.h"

namespace spore {

class VirtioRng : public VirtioDevice {
  public:
    VirtioRng(const GuestMemory& memory, EventLoop& loop);

    // Bytes given for one request: more is cut short, which a driver has to expect (§5.4.6.2).
    static constexpr size_t kRequestBytesMax = 64 * limits::kKiB;

    const char* name() const override { return "rng"; }
    void read_config(uint32_t offset, std::span<std::byte> bytes) const override;

  private:
    uint64_t device_features() const override { return 0; }
    void process() override;
    void stop_io() override;
    bool process_batch();
    uint32_t fill(const DescriptorChain& chain);

    Operation again_;  // comes back after a batch, so that others have their turn
};

}  // namespace spore
