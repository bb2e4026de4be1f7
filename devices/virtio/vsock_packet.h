#pragma once

// The packets of the vsock device (virtio 1.2 §5.10.6) and its arithmetic of credit. UNTRUSTED:
// every header from the guest is copied out once and taken apart in vsock_tx.cc. Fuzz target:
// fuzz-vsock.

#include <linux/virtio_vsock.h>

#include <cstdint>

#include "hypervisor/base/limits.h"

namespace spore {

// Who talks: the host is 2, guests are from 3 on (virtio 1.2 §5.10.4).
enum class ContextId : uint64_t { host = 2 };

// 0, 1 and 2 are not a guest's, nor are 0xffffffff and what needs more than 32 bits (§5.10.4).
constexpr bool is_guest(ContextId cid) {
    auto value = static_cast<uint64_t>(cid);
    return value > 2 && value < 0xffff'ffff;
}

using VsockHeader = virtio_vsock_hdr;
static_assert(sizeof(VsockHeader) == 44, "virtio 1.2 §5.10.6");

// The two ends of a connection; the CIDs are always the same.
struct VsockPorts {
    uint32_t host = 0;
    uint32_t guest = 0;

    bool operator==(const VsockPorts&) const = default;
    uint64_t key() const { return uint64_t{host} << 32 | guest; }
};

// Credit of one connection in both directions (virtio 1.2 §5.10.6.3). All counters run freely
// modulo 2^32.
struct VsockCredit {
    // Towards the guest.
    uint32_t guest_buffer_bytes = 0;  // its buf_alloc
    uint32_t guest_forwarded = 0;     // its fwd_cnt
    uint32_t sent = 0;                // our tx_cnt
    // From the guest.
    uint32_t received = 0;   // payload taken from the tx queue
    uint32_t forwarded = 0;  // of it, what the host program's socket took: our fwd_cnt
    uint32_t published = 0;  // the fwd_cnt in the last header that the guest got
    bool announced = false;  // whether it got any header: before, it may send nothing

    bool operator==(const VsockCredit&) const = default;

    // Payload bytes that the guest has room for. A guest that shrinks its buffer, or claims to have
    // read more than it got, has none.
    uint32_t room() const {
        uint32_t unread = sent - guest_forwarded;
        return unread >= guest_buffer_bytes ? 0 : guest_buffer_bytes - unread;
    }
    void heard(const VsockHeader& header) {
        guest_buffer_bytes = header.buf_alloc;
        guest_forwarded = header.fwd_cnt;
    }
    // Whether the guest may send `bytes`, by the last that it was told.
    bool allows(uint32_t bytes) const {
        return announced && bytes <= limits::kVsockBufferBytes - (received - published);
    }
    // Whether to tell the guest without its asking: so late that it costs little, so early that it
    // does not run dry meanwhile.
    bool update_due() const { return forwarded - published >= limits::kVsockBufferBytes / 2; }
};

}  // namespace spore
