#pragma once

// The host's side of a network device. Nobody but net*.cc includes this.

#include <linux/if_ether.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "devices/virtio/descriptor_chain.h"
#include "devices/virtio/net_header.h"
#include "hypervisor/base/limits.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

// What a back end tells the device.
class NetSink {
  public:
    virtual ~NetSink() = default;
    // A frame from the host. False: the guest has no room now; offer it again when pumped.
    [[nodiscard]] virtual bool receive(const NetHeader& header,
                                       std::span<const std::byte> frame) = 0;
    virtual void receive_dropped() = 0;
    // A frame handed to send() is done with: sent, or (`ok` false) lost.
    virtual void sent(DescriptorChain chain, size_t frame_bytes, bool ok) = 0;
    // The host's side is gone for good: nothing more comes or goes.
    virtual void link_lost() = 0;
    // Bracket everything that the ring works on; end_io() comes last in a handler.
    virtual void begin_io() = 0;
    virtual void end_io() = 0;
};

// A frame on its way out. `header` is the host's copy: what was checked is what is sent.
struct NetSend {
    DescriptorChain chain;
    NetHeader header;
    size_t frame_bytes = 0;  // behind the header, in chain.readable()
};

// Loop thread only.
class NetBackend {
  public:
    virtual ~NetBackend() = default;
    void attach(NetSink* sink) { sink_ = sink; }

    // Whether frames carry a NetHeader on the host's side as well: checksums and segmentation can
    // be left to it then.
    virtual bool has_offloads() const = 0;
    // Starts receiving; the guest takes what the GUEST_* bits of `features` say.
    virtual void start(uint64_t features) = 0;
    // Gives up waiting. What is in flight is done soon and told as ever.
    virtual void stop() = 0;
    // The guest may have room again.
    virtual void pump() = 0;

    virtual bool can_send() const = 0;
    virtual void send(NetSend send) = 0;  // only if can_send()

  protected:
    NetSink* sink_ = nullptr;
};

// A tap interface by name, or by a descriptor already attached to one. `what` begins messages.
// Errors: not_found, permission_denied, unavailable (busy), invalid_argument (no tap, no vnet
// header, name too long), host errors.
Result<UniqueFd> open_tap(const std::string& name);
Result<std::unique_ptr<NetBackend>> make_tap_backend(UniqueFd tap, std::string_view what,
                                                     EventLoop& loop);

// A connected Unix stream socket on which each frame follows its length in 4 bytes, big-endian, as
// passt and QEMU's `-netdev stream` have it.
// Errors of connecting: not_found, permission_denied, unavailable (no listener), invalid_argument
// (path too long), host errors.
Result<UniqueFd> connect_net_socket(const std::string& path);
Result<std::unique_ptr<NetBackend>> make_socket_backend(UniqueFd socket, std::string_view what,
                                                        EventLoop& loop);

}  // namespace spore
