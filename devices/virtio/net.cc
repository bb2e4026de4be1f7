#include "devices/virtio/net.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace spore {

namespace {

constexpr uint16_t kNetQueueSizes[] = {limits::kQueueSizeMax, limits::kQueueSizeMax};

Result<std::unique_ptr<NetBackend>> open_backend(NetConfig& config, EventLoop& loop) {
    int given = !config.tap.empty() + bool(config.tap_fd) + !config.socket_path.empty() +
                bool(config.socket_fd);
    if (given != 1)
        return fail(Code::invalid_argument,
                    config.name + ": " + std::to_string(given) +
                        " of tap, tap_fd, socket_path and socket_fd are given, must be 1");
    if (!config.tap.empty())
        return make_tap_backend(TRY(open_tap(config.tap)), "tap '" + config.tap + "'", loop);
    if (config.tap_fd) {
        std::string what = "tap_fd " + std::to_string(config.tap_fd.get());
        return make_tap_backend(std::move(config.tap_fd), what, loop);
    }
    if (!config.socket_path.empty())
        return make_socket_backend(TRY(connect_net_socket(config.socket_path)),
                                   "socket '" + config.socket_path + "'", loop);
    std::string what = "socket_fd " + std::to_string(config.socket_fd.get());
    return make_socket_backend(std::move(config.socket_fd), what, loop);
}

bool is_group(const MacAddress& mac) {
    return (mac[0] & 1) != 0;
}

}  // namespace

Result<MacAddress> parse_mac(std::string_view text) {
    auto refuse = [&](std::string_view why) {
        return fail(Code::invalid_argument, "mac '" + std::string(text) + "': " + std::string(why));
    };
    constexpr size_t kTextBytes = 17;
    if (text.size() != kTextBytes)
        return refuse("must be six pairs of hexadecimal digits with colons between them");
    MacAddress mac;
    for (size_t index = 0; index < mac.size(); index++) {
        const char* pair = text.data() + 3 * index;
        auto [end, error] = std::from_chars(pair, pair + 2, mac[index], 16);
        if (error != std::errc() || end != pair + 2 || (index < 5 && *end != ':'))
            return refuse("must be six pairs of hexadecimal digits with colons between them");
    }
    if (is_group(mac))
        return refuse("is a group address (lowest bit of the first byte)");
    return mac;
}

Result<MacAddress> random_mac() {
    MacAddress mac;
    if (::getrandom(mac.data(), mac.size(), 0) != static_cast<ssize_t>(mac.size()))
        return fail_errno("getrandom");
    mac[0] = static_cast<uint8_t>((mac[0] & 0xFC) | 0x02);
    return mac;
}

Result<std::unique_ptr<VirtioNet>> VirtioNet::create(NetConfig config, const GuestMemory& memory,
                                                     EventLoop& loop) {
    if (is_group(config.mac) || config.mac == MacAddress{})
        return fail(Code::invalid_argument, config.name + ": mac is a group address or all zeroes");
    auto backend = open_backend(config, loop);
    if (!backend)
        return std::unexpected(std::move(backend).error().within(config.name));
    return std::unique_ptr<VirtioNet>(
        new VirtioNet(std::move(config), std::move(*backend), memory, loop));
}

VirtioNet::VirtioNet(NetConfig config, std::unique_ptr<NetBackend> backend,
                     const GuestMemory& memory, EventLoop& loop)
    : VirtioDevice(VIRTIO_ID_NET, memory, loop, kNetQueueSizes),
      name_(std::move(config.name)),
      mac_(config.mac),
      offloads_(config.offloads && backend->has_offloads()),
      backend_(std::move(backend)) {
    backend_->attach(this);
}

VirtioNet::~VirtioNet() = default;

uint64_t VirtioNet::device_features() const {
    uint64_t features =
        feature_bit(kNetMac) | feature_bit(kNetStatus) | feature_bit(kNetMergeableBuffers);
    if (offloads_)
        features |= feature_bit(kNetCsum) | feature_bit(kNetGuestCsum) |
                    feature_bit(kNetGuestTso4) | feature_bit(kNetGuestTso6) |
                    feature_bit(kNetHostTso4) | feature_bit(kNetHostTso6);
    return features;
}

void VirtioNet::read_config(uint32_t offset, std::span<std::byte> bytes) const {
    NetConfigSpace space;
    space.mac = mac_;
    space.status = link_up_ ? kNetLinkUp : 0;
    std::ranges::fill(bytes, std::byte{0});
    if (offset < sizeof(space))
        std::memcpy(bytes.data(), reinterpret_cast<const std::byte*>(&space) + offset,
                    std::min(bytes.size(), sizeof(space) - offset));
}

void VirtioNet::start_io() {
    queues()[kRxQueue].disable_kicks();  // until a frame waits for room
    if (link_up_)
        backend_->start(features());
}

void VirtioNet::stop_io() {
    rx_rate_.stop();
    tx_rate_.stop();
    backend_->stop();
}

void VirtioNet::process() {
    process_tx();
    if (link_up_)
        backend_->pump();
}

void VirtioNet::link_lost() {
    if (!link_up_)
        return;
    link_up_ = false;
    counters_.host_errors++;
    if (line_ != nullptr && active())
        line_->config_changed();
}

// Interrupts are told once for all that the completions at hand have brought.
void VirtioNet::schedule_flush() {
    if (flush_scheduled_)
        return;
    flush_scheduled_ = true;
    begin_request();
    loop_.defer([this] { flush(); });
}

void VirtioNet::flush() {
    flush_scheduled_ = false;
    notify_used(kRxQueue);
    notify_used(kTxQueue);
    if (std::exchange(tx_left_, false))
        kick();
    end_request();
}

}  // namespace spore
