// The vsock device's life, and the pump: all work on its queues, in batches.

#include "devices/virtio/vsock.h"

#include <linux/virtio_ids.h>

#include <algorithm>

namespace spore {

namespace {
constexpr uint16_t kVsockQueueSizes[] = {limits::kQueueSizeMax, limits::kQueueSizeMax, 64};
constexpr unsigned kFeatureStream = 0;  // virtio 1.2 §5.10.3: VIRTIO_VSOCK_F_STREAM

Status check_cid(ContextId cid) {
    if (is_guest(cid))
        return {};
    return fail(Code::invalid_argument, "vsock CID " + std::to_string(static_cast<uint64_t>(cid)) +
                                            ": a guest's is 3 to 4294967294");
}
}  // namespace

Result<std::unique_ptr<VsockDevice>> VsockDevice::create(const VsockConfig& config,
                                                         const GuestMemory& memory,
                                                         EventLoop& loop) {
    TRY(check_cid(config.guest_cid));
    auto listener = TRY(VsockListener::create(config.uds_path, loop));
    return std::unique_ptr<VsockDevice>(new VsockDevice(config, std::move(listener), memory, loop));
}

Result<std::unique_ptr<VsockDevice>> VsockDevice::create(const VsockConfig& config,
                                                         UniqueFd listener,
                                                         const GuestMemory& memory,
                                                         EventLoop& loop) {
    TRY(check_cid(config.guest_cid));
    auto adopted = TRY(VsockListener::adopt(std::move(listener), loop));
    return std::unique_ptr<VsockDevice>(new VsockDevice(config, std::move(adopted), memory, loop));
}

VsockDevice::VsockDevice(const VsockConfig& config, VsockListener listener,
                         const GuestMemory& memory, EventLoop& loop)
    : VirtioDevice(VIRTIO_ID_VSOCK, memory, loop, kVsockQueueSizes),
      guest_cid_(config.guest_cid),
      config_(config),
      listener_(std::move(listener)),
      rx_(queues()[kRxQueue]),
      listener_wait_([this](int32_t) {
          if (active()) {
              accept_clients();
              schedule_pump();
          }
          end_request();
      }),
      timer_([this](int32_t result) {
          if (active() && result == -ETIME)
              expire();
          end_request();
      }) {}

VsockDevice::~VsockDevice() = default;

uint64_t VsockDevice::device_features() const {
    return uint64_t{1} << kFeatureStream;
}

void VsockDevice::read_config(uint32_t offset, std::span<std::byte> bytes) const {
    virtio_vsock_config config = {.guest_cid = static_cast<uint64_t>(guest_cid_)};
    std::ranges::fill(bytes, std::byte{0});
    auto from = std::as_bytes(std::span(&config, 1));
    if (offset < from.size())
        std::ranges::copy(from.subspan(offset, std::min(bytes.size(), from.size() - offset)),
                          bytes.begin());
}

size_t VsockDevice::buffered_bytes() const {
    size_t total = 0;
    for (const auto& [key, connection] : connections_)
        total += connection->buffer.size();
    return total;
}

void VsockDevice::process() {
    pump();
}

// Everything that the queues and the connections have to do at this moment; then one interrupt for
// each queue. Whatever ends here for want of something has been arranged to come back: by a kick
// (buffers, packets), by a wait in the ring (sockets), or by another pass soon (this one was full).
void VsockDevice::pump() {
    serve_event_queue();
    bool more = false;
    for (bool again = true; again && !failed();) {
        more = serve_tx();
        if (!failed())
            more |= serve_rx();
        // A tx queue that was left alone because too many resets waited: have they gone?
        again = !more && tx_held_ && resets_.size() < limits::kVsockResetsMax;
    }
    rx_.give_back(failed());
    for (uint16_t queue : {kRxQueue, kTxQueue, kEventQueue})
        notify_used(queue);
    if (failed())
        drop_everything();  // nothing will reach the guest until it resets the device
    sweep();
    if (more && !failed())
        schedule_pump();
}

// Runs the pump when all completions at hand are through, so that they make one batch, and when
// others on the loop had their turn.
void VsockDevice::schedule_pump() {
    if (pump_scheduled_)
        return;
    pump_scheduled_ = true;
    begin_request();
    loop_.defer([this] {
        pump_scheduled_ = false;
        if (active() && !failed())
            pump();
        else
            sweep();
        end_request();
    });
}

// Deletes what is done with, where nothing refers to it any more.
void VsockDevice::sweep() {
    if (!dead_.empty()) {
        std::erase_if(ready_, [](Connection* c) { return c->phase == Phase::dead; });
        dead_.clear();
    }
    std::erase_if(closed_, [](const auto& socket) { return socket->idle(); });
}

void VsockDevice::start_io() {
    // Nobody could be quick while the machine stood still: the limits begin anew.
    auto now = Clock::now();
    for (auto& client : clients_) {
        client->deadline = now + config_.line_limit;
        arm(*client);
    }
    std::vector<Connection*> all;
    all.reserve(connections_.size());
    for (auto& [key, connection] : connections_)
        all.push_back(connection.get());
    for (Connection* connection : all) {
        connection->deadline = now + config_.answer_limit;
        settle(*connection);  // may take it out of the table
    }
    // Whoever attaches may have been waiting for this moment: its first bytes are in the guest's
    // buffers before the guest runs.
    if (awaits_attach())
        accept_clients();
    arm_listener();
    if (!clients_.empty() || accept_failed_)
        arm_timer();
}

void VsockDevice::stop_io() {
    for (Operation* operation : {&listener_wait_, &timer_})
        loop_.cancel(*operation);
    auto cancel = [&](VsockSocket* socket) {
        if (socket == nullptr)
            return;
        loop_.cancel(socket->readable_wait);
        loop_.cancel(socket->writable_wait);
    };
    for (auto& client : clients_)
        cancel(client->socket.get());
    for (auto& [key, connection] : connections_)
        cancel(connection->socket.get());
}

void VsockDevice::on_reset() {
    drop_everything();
    sweep();
    reset_due_ = reset_unread_ = false;
    accept_failed_ = false;
}

void VsockDevice::drop_everything() {
    drop_connections(true);
    while (!clients_.empty())
        remove(*clients_.back());
    resets_.clear();
}

void VsockDevice::announce_reset() {
    drop_connections(false);
    resets_.clear();  // they answer packets of connections that end anyway
    if (!queues()[kEventQueue].ready())
        return;  // no driver: nobody has any connection
    reset_due_ = reset_unread_ = true;
    if (active() && !failed())
        schedule_pump();
    else
        sweep();
}

void VsockDevice::serve_event_queue() {
    Queue& events = queues()[kEventQueue];
    while (reset_unread_) {
        uint16_t waiting = events.waiting();
        if (reset_due_ && waiting > 0) {
            auto chain = events.pop();
            if (!chain) {
                device_error(chain.error(), kEventQueue);
                return;
            }
            virtio_vsock_event event = {.id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
            bool fits = (*chain)->write(event).has_value();
            events.push(std::move(**chain), fits ? sizeof(event) : 0);
            if (fits)
                reset_waiting_ = waiting;
            else
                vsock_counters_.bad_buffers++;
            reset_due_ = !fits;
        } else if (!reset_due_ && waiting >= reset_waiting_) {
            reset_unread_ = false;  // the driver gives the buffer back when it is done (§5.10.6.7)
        } else if (!events.enable_kicks(waiting)) {
            return;
        }
    }
    events.disable_kicks();
}

}  // namespace spore
