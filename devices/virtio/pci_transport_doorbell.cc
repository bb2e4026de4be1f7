#include "devices/virtio/pci_transport_doorbell.h"

#include <sys/eventfd.h>

namespace spore {

Doorbell::Doorbell(EventLoop& loop, DoorbellRegistry& registry, std::function<void()> on_ring)
    : loop_(loop), registry_(registry), on_ring_(std::move(on_ring)), read_([this](int32_t result) {
          if (result == -ECANCELED)  // the loop drains: the end
              return;
          arm();
          on_ring_();
      }) {}

Status Doorbell::listen_at(GuestAddress address) {
    if (address_ == address)
        return {};
    if (!event_)
        TRY(open());
    if (address_)
        registry_.remove(*address_, event_.fd());
    address_.reset();
    TRY(registry_.assign(address, event_.fd()));
    address_ = address;
    return {};
}

Status Doorbell::open() {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event)
        return fail_errno("eventfd of a doorbell");
    event_ = TRY(loop_.add_file(std::move(event)));
    arm();
    return {};
}

void Doorbell::arm() {
    loop_.read(read_, event_, std::as_writable_bytes(std::span(&rings_, 1)), EventLoop::kStream);
}

}  // namespace spore
