#pragma once

// The control socket of spore-vmm (schema/control.fbs). UNTRUSTED: a client's packets are bounded
// and verified here before anything is read from them.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/virtio/vsock_packet.h"
#include "hypervisor/base/rate.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

// What the control socket can ask of a machine. Loop thread; each answers through `done`, once, at
// any later time.
class ControlTarget {
  public:
    struct Status {
        uint8_t state = 0;  // control::fb::RunState
        uint64_t memory_bytes = 0;
        uint32_t cpus = 0;
        std::vector<std::pair<std::string, uint64_t>> counters;
    };
    // Nothing: stays as it is.
    struct Limits {
        std::optional<RateLimits> disk, network_rx, network_tx;
        uint64_t disk_bytes = 0;  // of the first disk; 0: stays
    };
    using Done = std::move_only_function<void(spore::Status)>;

    virtual ~ControlTarget() = default;
    virtual Status control_status() = 0;
    virtual void control_pause(Done done) = 0;
    virtual void control_resume(Done done) = 0;
    virtual void control_snapshot(const std::string& directory, std::optional<VsockPorts> carry,
                                  Done done) = 0;
    virtual spore::Status control_limits(const Limits& limits) = 0;
    virtual void control_quit() = 0;
};

// A socket bound to `path` that nobody can connect to yet. Errors: invalid_argument for a path over
// 107 bytes, already_exists, the host's.
Result<UniqueFd> bind_control_socket(const std::string& path);

// Serves a bound socket on the loop. Loop thread only. At most 16 clients at once, one request each
// under way; the socket file at `path` is removed at the end (empty: somebody else does that).
class ControlServer {
  public:
    // The process that calls this is the one that clients see as their peer (SO_PEERCRED).
    static Result<std::unique_ptr<ControlServer>> listen(EventLoop& loop, ControlTarget& target,
                                                         UniqueFd socket, const std::string& path);
    ~ControlServer();

  private:
    struct Client;
    ControlServer(EventLoop& loop, ControlTarget& target, std::string path, RingFile socket);
    void accept_next();
    void serve(Client& client, size_t bytes);
    void reply(Client& client, const spore::Status& status);
    void send_packet(Client& client, std::span<const std::byte> packet);
    void receive_next(Client& client);
    void drop(Client& client);

    EventLoop& loop_;
    ControlTarget& target_;
    std::string path_;
    RingFile socket_;
    Operation accept_op_;
    std::vector<std::unique_ptr<Client>> clients_;
};

}  // namespace spore
