#pragma once

// The socket device (virtio 1.2 §5.10): stream connections between programs in the guest and
// programs on the host, which meet it at Unix sockets. A host program connects to `uds_path`,
// writes "CONNECT <port>\n", and reads "OK <its own port>\n" once the guest has accepted; a guest
// program that connects to port P of CID 2 reaches who listens at `<uds_path>_P`.
//
// One connection may be carried through a snapshot. In the restored machine the guest's end of it
// stands as it did; its host end is whoever first connects to the socket and writes
// "ATTACH <the guest's port>\n". There is no answer to that line: what follows it is the
// connection's data, and it may all be written before the machine runs. Who comes later is hung up
// on.

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "devices/virtio/device.h"
#include "devices/virtio/vsock_connection.h"
#include "devices/virtio/vsock_listener.h"
#include "devices/virtio/vsock_rx_buffers.h"
#include "devices/virtio/vsock_state.h"

namespace spore {

struct VsockConfig {
    ContextId guest_cid{3};
    std::string uds_path;  // at most 107 bytes; for guest-initiated connections 11 less
    // How long a host program may take to write its line, and the guest to answer it.
    std::chrono::milliseconds line_limit{limits::kVsockLineLimitMs};
    std::chrono::milliseconds answer_limit{limits::kVsockAnswerLimitMs};
};

// Never reset while the machine lives.
struct VsockCounters {
    uint64_t connections = 0;        // established, by either side
    uint64_t refused = 0;            // by the guest, for want of a listener, or at the limit
    uint64_t bytes_to_guest = 0;     // payload
    uint64_t bytes_to_host = 0;      // payload
    uint64_t resets_sent = 0;        // RST packets to the guest
    uint64_t resets_received = 0;    // RST packets from it
    uint64_t credit_violations = 0;  // connections reset because the guest sent more than it may
    uint64_t bad_packets = 0;        // headers that lie, unknown types and operations
    uint64_t wrong_cids = 0;         // packets from or to somebody else: ignored
    uint64_t bad_buffers = 0;        // rx and event buffers too small for what must go in
    uint64_t clients_rejected = 0;   // host programs that wrote no proper line, or not in time
};

// Loop thread only.
class VsockDevice final : public VirtioDevice {
  public:
    static constexpr uint16_t kRxQueue = 0;
    static constexpr uint16_t kTxQueue = 1;
    static constexpr uint16_t kEventQueue = 2;
    // Host ports of connections that the host begins; taken in turn, so none comes again soon.
    static constexpr uint32_t kHostPortFirst = 1u << 30;
    static constexpr uint32_t kHostPortLast = (1u << 31) - 1;

    // Binds and listens at `config.uds_path`; a socket that nobody listens at any more is replaced.
    // Errors: invalid_argument (CID, path), already_exists (the path is taken), host errors.
    static Result<std::unique_ptr<VsockDevice>> create(const VsockConfig& config,
                                                       const GuestMemory& memory, EventLoop& loop);
    // Serves `listener`, a bound Unix stream socket, and has no paths: what the guest begins is
    // refused with RST. `config.uds_path` is not looked at. Errors: invalid_argument (CID, another
    // kind of descriptor), host errors.
    static Result<std::unique_ptr<VsockDevice>> create(const VsockConfig& config, UniqueFd listener,
                                                       const GuestMemory& memory, EventLoop& loop);
    ~VsockDevice() override;

    const char* name() const override { return "vsock"; }
    void read_config(uint32_t offset, std::span<std::byte> bytes) const override;
    ContextId guest_cid() const { return guest_cid_; }
    const VsockCounters& vsock_counters() const { return vsock_counters_; }
    // Connections in the table, those on their way in or out included.
    size_t connection_count() const { return connections_.size(); }
    // Memory that holds bytes for slow host programs.
    size_t buffered_bytes() const;

    using VirtioDevice::attach;
    // Connects `host_end` (a stream socket) to the guest's port as if its owner had written a
    // CONNECT line, but with no OK in return: closed if the guest refuses. Running or quiesced.
    // Errors: unavailable (no driver), resource_exhausted (connections, files).
    Status attach(UniqueFd host_end, uint32_t guest_port);

    // Tells the guest that all its connections are gone (virtio 1.2 §5.10.6.7) and closes the host
    // ends of those it knows: for a machine restored from a snapshot, before or after resume().
    // Until the guest has handled it nothing else is sent to it, which it might take for old.
    void announce_reset();

    using VirtioDevice::restore;
    // Quiesced. `carry` names the connection to carry; none: the one that was carried into this
    // machine, if nobody has attached to it. Errors: not_found (no such connection stands),
    // unavailable (it is half closed, or bytes for its host program wait), resource_exhausted.
    Result<VsockState> save(std::optional<VsockPorts> carry = {}) const;
    // Takes on `state`, which may come from an untrusted file; before VirtioDevice::restore(), on a
    // device that has no connection yet. The carried connection stands from here on; the others get
    // RST (virtio 1.2 §5.10.6.5) before anything else is sent. If none is carried, announce_reset()
    // is to follow instead: it ends them all. Errors: corrupt, nothing changed.
    Status restore(const VsockState& state);
    // A connection was carried in, and nobody has attached to it so far.
    bool awaits_attach() const { return detached() != nullptr; }

  protected:
    uint64_t device_features() const override;
    void process() override;
    void start_io() override;
    void stop_io() override;
    void on_reset() override;

  private:
    using Connection = VsockConnection;
    using Phase = VsockConnection::Phase;
    using Clock = std::chrono::steady_clock;

    VsockDevice(const VsockConfig& config, VsockListener listener, const GuestMemory& memory,
                EventLoop& loop);

    // vsock.cc: the pump, which does all work on the queues in batches.
    void pump();
    void schedule_pump();
    void sweep();
    void serve_event_queue();
    void drop_everything();

    // vsock_tx.cc: packets from the guest.
    bool serve_tx();
    void handle_packet(const DescriptorChain& chain);
    void handle_known(Connection& connection, const VsockHeader& header,
                      const DescriptorChain& chain);
    void handle_unknown(const VsockHeader& header);
    void handle_response(Connection& connection);
    void handle_reset(Connection& connection);
    void handle_shutdown(Connection& connection, uint32_t flags);
    void handle_data(Connection& connection, const VsockHeader& header,
                     const DescriptorChain& chain);
    void accept_from_guest(const VsockHeader& header);
    void bad_packet(Connection* connection, const VsockHeader& header);
    void queue_reset(const VsockHeader& answered);

    // vsock_rx.cc: packets to the guest.
    bool serve_rx();
    bool serve_one(Connection& connection);
    bool send_control(Connection& connection);
    bool send_data(Connection& connection);
    void gather(size_t bytes);
    void host_end_of_stream(Connection& connection);
    bool send_packet(const VsockHeader& header);
    VsockHeader header_for(Connection& connection, uint16_t op);

    // vsock_phases.cc: connections from phase to phase.
    Connection* find(VsockPorts ports);
    Connection* detached() const;
    void adopt_socket(Connection& connection, std::unique_ptr<VsockSocket> socket);
    bool room_for_one_more();
    Connection& insert(std::unique_ptr<Connection> connection);
    void remove(Connection& connection);
    void reset_connection(Connection& connection);
    void close_socket(Connection& connection);
    void host_stopped_reading(Connection& connection);
    void host_closed(Connection& connection);
    void flush(Connection& connection);
    void settle(Connection& connection);
    void drop_connections(bool also_unsent);
    uint32_t allocate_host_port(uint32_t guest_port);
    void request(std::unique_ptr<Connection> connection, uint32_t guest_port);

    // vsock_waits.cc: what the ring waits for.
    Result<std::unique_ptr<VsockSocket>> make_socket(UniqueFd fd);
    void arm(Connection& connection);
    void on_readable(VsockSocket& socket, int32_t result);
    void on_writable(VsockSocket& socket, int32_t result);
    void arm_listener();
    void accept_clients();
    void read_line(Connection& client);
    void reject(Connection& client);
    void arm_timer();
    void expire();

    ContextId guest_cid_;
    VsockConfig config_;
    VsockListener listener_;
    VsockCounters vsock_counters_;
    uint32_t next_host_port_ = kHostPortFirst;

    std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;  // by VsockPorts::key
    std::vector<std::unique_ptr<Connection>> clients_;                       // in their greeting
    std::deque<Connection*> ready_;                                          // for rx, in turn
    std::deque<VsockHeader> resets_;  // RST for packets without a connection
    std::vector<std::unique_ptr<Connection>> dead_;
    std::vector<std::unique_ptr<VsockSocket>> closed_;  // until their waits have ended
    VsockRxBuffers rx_;
    std::vector<iovec> pieces_;  // scratch for one sendmsg or recvmsg

    bool reset_due_ = false;      // an event waits for a buffer
    bool reset_unread_ = false;   // the guest has not handled it yet: nothing goes out
    uint16_t reset_waiting_ = 0;  // buffers in the event queue when it has
    bool pump_scheduled_ = false;
    bool tx_held_ = false;        // the tx queue is left alone: too many resets wait
    bool accept_failed_ = false;  // for want of descriptors: again when the timer rings

    Operation listener_wait_;
    Operation timer_;
};

}  // namespace spore
