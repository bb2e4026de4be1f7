#pragma once

// One vsock connection: its host program's socket, what waits for either side, and how far it has
// been shut down. The device (vsock.h) moves it from phase to phase.

#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "devices/virtio/vsock_packet.h"
#include "hypervisor/base/result.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

class VsockConnection;

// A host program's end: a non-blocking socket, and the ring's two waits for it. Data is moved by
// system calls that never wait, so nothing is lost when a wait is cancelled, and no request that is
// in flight ever points into guest memory.
struct VsockSocket {
    // Both handlers take the socket and the wait's result.
    template <typename OnReadable, typename OnWritable>
    VsockSocket(RingFile socket, OnReadable on_readable, OnWritable on_writable)
        : file(std::move(socket)),
          readable_wait([this, on_readable](int32_t result) { on_readable(*this, result); }),
          writable_wait([this, on_writable](int32_t result) { on_writable(*this, result); }) {}

    // Whether the host program has closed its end for good.
    bool hung_up() const;
    bool idle() const { return !readable_wait.in_flight() && !writable_wait.in_flight(); }

    RingFile file;
    VsockConnection* owner = nullptr;  // null once it has been given up
    Operation readable_wait;
    Operation writable_wait;
};

// Bytes on their way from the guest to a host program that is slow to read. Takes memory only while
// it holds some.
class VsockBuffer {
  public:
    size_t size() const { return bytes_.size() - head_; }
    bool empty() const { return size() == 0; }
    std::span<const std::byte> front() const { return std::span(bytes_).subspan(head_); }
    // Appends [offset, offset + size) of `pieces`.
    void append(std::span<const iovec> pieces, size_t offset, size_t size);
    void consume(size_t size);
    void clear();

  private:
    std::vector<std::byte> bytes_;
    size_t head_ = 0;
};

class VsockConnection {
  public:
    enum class Phase {
        greeting,     // a host program that has not said yet where to: ports are not known
        requested,    // the guest is asked, or will be, and has not answered
        established,  // data flows, perhaps in one direction only any more
        detached,     // carried through a snapshot: established for the guest, no host program yet
        lingering,    // the host end is closed and the guest told; its RST is due
        flushing,     // the guest is gone; what it sent still goes to the host program
        resetting,    // the host end is closed and RST waits for an rx buffer
        dead,         // out of the table; to be deleted when nobody looks at it
    };
    // Packets that wait for an rx buffer. They go before data; a shutdown of sending is only set
    // when all data has gone.
    enum Pending : uint8_t {
        kRequest = 1,
        kResponse = 2,
        kCreditUpdate = 4,
        kCreditRequest = 8,
        kShutdown = 16,
        kReset = 32,
    };

    // Whether bytes of the host program may still go to the guest.
    bool reads_host() const {
        return phase == Phase::established && (host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0 &&
               (guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
    }
    bool has_data() const { return readable && reads_host() && credit.room() > 0; }
    // Whether nothing but a look now and then tells that the host program has gone: the ring
    // reports a half-closed socket as it does a closed one.
    bool needs_watching() const {
        return phase == Phase::requested || (phase == Phase::established && !reads_host() &&
                                             (host_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0);
    }
    bool wants_rx() const { return pending != 0 || has_data(); }

    Phase phase = Phase::greeting;
    VsockPorts ports;
    VsockCredit credit;
    std::unique_ptr<VsockSocket> socket;
    VsockBuffer buffer;             // in the greeting: the line so far
    uint8_t pending = 0;            // of Pending
    uint8_t guest_shut = 0;         // VIRTIO_VSOCK_SHUTDOWN_*: what the guest will not do any more
    uint8_t host_shut = 0;          // the same of the host program
    bool write_shut = false;        // shutdown(SHUT_WR) is done
    bool says_ok = false;           // the host program waits for "OK <port>"
    bool readable = false;          // the socket may have bytes
    bool credit_requested = false;  // asked since the guest's credit was last above 0
    bool queued = false;            // in the device's ready list
    uint32_t read_goal = 0;         // bytes that the next recv asks for
    std::chrono::steady_clock::time_point deadline = {};  // in greeting and requested
};

}  // namespace spore
