#pragma once

// A device's doorbell: an eventfd that the kernel signals when the guest writes to an address.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "hypervisor/base/result.h"
#include "hypervisor/io/event_loop.h"
#include "hypervisor/memory/guest_address.h"

namespace spore {

// Ties a guest address to an eventfd; the machine implements it with KVM_IOEVENTFD. Loop thread.
class DoorbellRegistry {
  public:
    virtual ~DoorbellRegistry() = default;
    // From now on a guest's write of 2 bytes (any value) to `address` signals `eventfd`.
    virtual Status assign(GuestAddress address, int eventfd) = 0;
    virtual void remove(GuestAddress address, int eventfd) = 0;
};

// Loop thread only. Destroy it after EventLoop::drain(): it always waits for the next ring.
class Doorbell {
  public:
    Doorbell(EventLoop& loop, DoorbellRegistry& registry, std::function<void()> on_ring);

    // Listens at `address`, and no longer where it did before. The eventfd is made by the first
    // call. Errors: the host's; the doorbell is then nowhere.
    Status listen_at(GuestAddress address);

  private:
    Status open();
    void arm();

    EventLoop& loop_;
    DoorbellRegistry& registry_;
    std::function<void()> on_ring_;
    std::optional<GuestAddress> address_;
    uint64_t rings_ = 0;
    RingFile event_;
    Operation read_;
};

}  // namespace spore
