#pragma once

// What a snapshot keeps of the vsock device.

#include <vector>

#include "devices/virtio/vsock_packet.h"

namespace spore {

struct VsockConnectionState {
    VsockPorts ports;
    VsockCredit credit;
    uint8_t guest_shut = 0;       // VIRTIO_VSOCK_SHUTDOWN_*
    uint8_t host_shut = 0;        // the same
    uint32_t buffered_bytes = 0;  // taken from the guest, not yet by the host program: not kept

    bool operator==(const VsockConnectionState&) const = default;
};

struct VsockState {
    ContextId guest_cid{3};
    uint32_t next_host_port = 0;
    std::vector<VsockConnectionState> connections;  // established ones, by ports

    bool operator==(const VsockState&) const = default;
};

}  // namespace spore
