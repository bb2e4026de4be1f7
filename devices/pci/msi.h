#pragma once

#include <cstdint>

namespace spore {

// One message-signalled interrupt: `data` written to `address` (PCI 3.0 §6.8).
struct MsiMessage {
    uint64_t address = 0;
    uint32_t data = 0;

    bool operator==(const MsiMessage&) const = default;
};

// Where interrupts go; the machine implements it with KVM_SIGNAL_MSI. Loop thread only.
class MsiSink {
  public:
    virtual ~MsiSink() = default;
    // `message.address` is in 0xfee00000..0xfeefffff; every other field is the guest's word.
    virtual void send(const MsiMessage& message) = 0;
};

}  // namespace spore
