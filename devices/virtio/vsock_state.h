#pragma once

// What a snapshot keeps of the vsock device. A machine that is restored goes on with one connection
// at most, the carried one; whatever else the guest knew is told that it is gone.

#include <optional>
#include <vector>

#include "devices/virtio/vsock_packet.h"

namespace spore {

// A connection that the host began, open in both directions, with nothing on its way to the host
// program: all that was received has been forwarded.
struct VsockCarriedState {
    VsockPorts ports;
    VsockCredit credit;
    bool credit_asked = false;  // the guest waits for a credit update

    bool operator==(const VsockCarriedState&) const = default;
};

struct VsockState {
    ContextId guest_cid{3};
    uint32_t next_host_port = 0;
    std::optional<VsockCarriedState> carried;
    std::vector<VsockPorts> ended;  // what the guest may still take for alive, by VsockPorts::key

    bool operator==(const VsockState&) const = default;
};

}  // namespace spore
