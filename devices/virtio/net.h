#pragma once

// The network device (virtio 1.2 §5.1): one receive and one transmit queue, on a tap interface or a
// Unix stream socket.

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "devices/virtio/device.h"
#include "devices/virtio/net_backend.h"
#include "devices/virtio/rate_limit.h"

namespace spore {

using MacAddress = std::array<uint8_t, 6>;

// "02:00:5e:10:00:01" → bytes. Errors: invalid_argument; a group address is none for a station.
Result<MacAddress> parse_mac(std::string_view text);
// A random address of those that are administered locally.
Result<MacAddress> random_mac();

struct NetConfig {
    std::string name = "net0";  // for messages
    MacAddress mac = {};
    // Exactly one of these four.
    std::string tap;          // an existing tap interface's name; at most 15 bytes
    UniqueFd tap_fd;          // attached with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    std::string socket_path;  // a Unix stream socket that somebody listens at; at most 107 bytes
    UniqueFd socket_fd;       // such a socket, connected
    // Offer checksum and segmentation offloads where the back end has them (a tap does).
    bool offloads = true;
};

// Never reset while the machine lives. Bytes are the frames', without virtio's header.
struct NetCounters {
    uint64_t rx_frames = 0;  // to the guest
    uint64_t rx_bytes = 0;
    uint64_t rx_dropped = 0;  // too large for the guest's buffers, or too short for Ethernet
    uint64_t tx_frames = 0;   // from the guest
    uint64_t tx_bytes = 0;
    uint64_t tx_dropped = 0;  // malformed (also counted as guest errors), or refused by the host
};

// Loop thread only.
class VirtioNet final : public VirtioDevice, private NetSink {
  public:
    static constexpr uint16_t kRxQueue = 0;
    static constexpr uint16_t kTxQueue = 1;

    // Opens the back end. Errors name the field, the value and the bound.
    static Result<std::unique_ptr<VirtioNet>> create(NetConfig config, const GuestMemory& memory,
                                                     EventLoop& loop);
    ~VirtioNet() override;

    const char* name() const override { return name_.c_str(); }
    void read_config(uint32_t offset, std::span<std::byte> bytes) const override;
    const NetCounters& net_counters() const { return net_counters_; }
    const MacAddress& mac() const { return mac_; }
    // Bytes and packets in a second, to the guest and from it; a frame that is yet to be segmented
    // counts as the packets that it becomes. A snapshot has none of these limits.
    RateLimiter& rx_rate() { return rx_rate_; }
    RateLimiter& tx_rate() { return tx_rate_; }
    bool link_up() const { return link_up_; }
    bool offloads() const { return offloads_; }

  private:
    VirtioNet(NetConfig config, std::unique_ptr<NetBackend> backend, const GuestMemory& memory,
              EventLoop& loop);

    uint64_t device_features() const override;
    void process() override;
    void start_io() override;
    void stop_io() override;

    // NetSink
    bool receive(const NetHeader& header, std::span<const std::byte> frame) override;
    void receive_dropped() override { net_counters_.rx_dropped++; }
    void sent(DescriptorChain chain, size_t frame_bytes, bool ok) override;
    void link_lost() override;
    void begin_io() override { begin_request(); }
    void end_io() override { end_request(); }

    // net_rx.cc
    enum class Room { enough, not_yet, never };
    Room gather(size_t bytes);
    void put_back();
    void deliver(NetHeader header, std::span<const std::byte> frame);
    // net_tx.cc
    void process_tx();
    bool transmit(DescriptorChain& chain);
    const char* malformed(const DescriptorChain& chain, const NetHeader& header) const;

    void go_on() {
        kick();
        end_request();
    }
    void schedule_flush();
    void flush();

    std::string name_;
    MacAddress mac_;
    bool offloads_;
    bool link_up_ = true;
    NetCounters net_counters_;
    std::vector<DescriptorChain> gathered_;  // of the frame being received
    bool flush_scheduled_ = false;
    bool tx_left_ = false;  // the back end was full: come back when it is not
    Operation tx_again_{[this](int32_t) { go_on(); }};  // the budget was used up: others first
    RateLimiter rx_rate_{loop_, [this] { begin_request(); }, [this] { go_on(); }};
    RateLimiter tx_rate_{loop_, [this] { begin_request(); }, [this] { go_on(); }};
    std::unique_ptr<NetBackend> backend_;
};

}  // namespace spore
