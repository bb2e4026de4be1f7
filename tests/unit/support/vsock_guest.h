#pragma once

// A guest with a vsock driver: obeys credit, kicks only when asked to, looks at a queue only when
// interrupted. Tests read and write its connections and may also send whatever they like.

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "devices/virtio/vsock.h"
#include "tests/unit/support/fake_driver.h"

namespace spore::test {

struct GuestConnection {
    VsockPorts ports;
    bool established = false;
    bool reset = false;     // RST came
    bool finished = false;  // RST came or was sent
    uint8_t host_shut = 0;
    uint8_t own_shut = 0;
    std::string unread;
    bool greedy = false;    // reads at once into `total` and `checksum`
    uint64_t total = 0;     // bytes that were read
    uint64_t checksum = 0;  // over those
    uint32_t buffer_bytes = 256 * limits::kKiB;
    uint32_t received = 0, forwarded = 0, told = 0;          // from the host
    uint32_t sent = 0, host_buffer = 0, host_forwarded = 0;  // to it
    uint32_t largest_packet = 0;

    uint32_t room() const { return host_buffer - (sent - host_forwarded); }
};

// A running checksum that notices order as well as content.
inline uint64_t add_to_checksum(uint64_t sum, std::string_view bytes) {
    for (char c : bytes)
        sum = (sum ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return sum;
}

class VsockGuest {
  public:
    struct Options {
        bool event_index = true;
        uint16_t rx_buffers = 64;
        uint32_t rx_buffer_bytes = 4096 + sizeof(VsockHeader);
        uint16_t event_buffers = 8;
    };

    VsockGuest(VsockDevice& target, const GuestMemory& guest_memory, Options chosen)
        : options(chosen), device(&target), memory(guest_memory) {
        uint64_t features = uint64_t{1} << VIRTIO_F_VERSION_1;
        if (options.event_index)
            features |= uint64_t{1} << kFeatureEventIndex;
        EXPECT_TRUE(device->set_features(features).has_value());
        device->attach(&line);
        for (FakeDriver* each : {&rx, &tx, &events})  // a device before this one may have used them
            std::ranges::fill(*memory.range(GuestAddress(each->queue_state().descriptor_table),
                                            64 * limits::kKiB),
                              std::byte{0});
        for (uint16_t queue = 0; queue < 3; queue++)
            EXPECT_TRUE(device->queues()[queue]
                            .configure(driver(queue).queue_state(), options.event_index)
                            .has_value());
        for (uint16_t count = 0; count < options.event_buffers; count++)
            add(2, {Buffer{events.allocate(16), sizeof(virtio_vsock_event), true}});
        for (uint16_t count = 0; count < options.rx_buffers; count++)
            rx_spare.push_back(
                {rx.allocate(options.rx_buffer_bytes), options.rx_buffer_bytes, true});
        for (unsigned count = 0; count < kTxBuffers; count++)
            tx_spare.push_back(tx.allocate(kTxBytes));
        refill();
    }

    void start() { device->activate(); }

    FakeDriver& driver(uint16_t queue) { return queue == 0 ? rx : queue == 1 ? tx : events; }

    // Makes `chain` available and kicks if the device wants that.
    uint16_t add(uint16_t queue, std::initializer_list<Buffer> chain) {
        uint16_t head = driver(queue).add(chain);
        uint16_t before = added[queue]++;
        bool kick = false;
        QueueState state = driver(queue).queue_state();
        if (options.event_index) {
            auto event =
                *memory.read<uint16_t>(GuestAddress(state.used_ring + 4 + 8u * state.size));
            kick = passes_event(event, added[queue], before);
        } else {
            kick = (driver(queue).used_flags() & kUsedNoNotify) == 0;
        }
        if (kick)
            kicked = true;
        return head;
    }
    void ring_doorbell() {
        if (std::exchange(kicked, false) && device->active()) {
            rang = true;
            device->kick();
        }
    }

    // Goes on with a device that was restored from this guest's snapshot.
    void move_to(VsockDevice& restored) {
        device = &restored;
        device->attach(&line);
    }

    // Gives the device all rx buffers that are not in use, if `refilling`.
    void refill() {
        while (refilling && !rx_spare.empty()) {
            Buffer buffer = rx_spare.back();
            rx_spare.pop_back();
            rx_used[add(0, {buffer})] = buffer;
        }
    }

    // Sends a packet as it is. False if no tx buffer is free.
    bool send_raw(const VsockHeader& header, std::string_view payload = {}) {
        reap_tx();
        if (tx_spare.empty()) {
            ring_doorbell();
            reap_tx();
        }
        if (tx_spare.empty())
            return false;
        GuestAddress address = tx_spare.back();
        tx_spare.pop_back();
        EXPECT_TRUE(memory.write(address, header).has_value());
        GuestAddress body = *address.checked_add(sizeof(header));
        EXPECT_TRUE(memory.write_bytes(body, bytes_of(payload)).has_value());
        auto size = static_cast<uint32_t>(payload.size());
        uint16_t head = size == 0 ? add(1, {{address, sizeof(header), false}})
                                  : add(1, {{address, sizeof(header), false}, {body, size, false}});
        tx_used[head] = address;
        return true;
    }
    VsockHeader header(const GuestConnection& c, uint16_t op, uint32_t length = 0) const {
        VsockHeader h = {};
        h.src_cid = cid;
        h.dst_cid = 2;
        h.src_port = c.ports.guest;
        h.dst_port = c.ports.host;
        h.len = length;
        h.type = VIRTIO_VSOCK_TYPE_STREAM;
        h.op = op;
        h.buf_alloc = c.buffer_bytes;
        h.fwd_cnt = c.forwarded;
        return h;
    }
    bool control(GuestConnection& c, uint16_t op, uint32_t flags = 0) {
        VsockHeader h = header(c, op);
        h.flags = flags;
        c.told = c.forwarded;
        return send_raw(h);
    }

    GuestConnection& connect(uint32_t host_port, uint32_t guest_port) {
        GuestConnection& c = connections[VsockPorts{host_port, guest_port}.key()];
        c = {};
        c.ports = {host_port, guest_port};
        EXPECT_TRUE(control(c, VIRTIO_VSOCK_OP_REQUEST));
        return c;
    }
    // Sends what credit and buffers allow of `bytes`, in one packet; says how many.
    size_t send(GuestConnection& c, std::string_view bytes) {
        size_t size = std::min<size_t>({bytes.size(), c.room(), kTxBytes - sizeof(VsockHeader)});
        if (size == 0 || !c.established)
            return 0;
        if (!send_raw(header(c, VIRTIO_VSOCK_OP_RW, static_cast<uint32_t>(size)),
                      bytes.substr(0, size)))
            return 0;
        c.told = c.forwarded;
        c.sent += static_cast<uint32_t>(size);
        return size;
    }
    // Reads up to `most` bytes, and tells the host as Linux does: when its view gets tight.
    std::string read(GuestConnection& c, size_t most = SIZE_MAX) {
        std::string bytes = c.unread.substr(0, most);
        c.unread.erase(0, bytes.size());
        c.forwarded += static_cast<uint32_t>(bytes.size());
        if (c.buffer_bytes - (c.forwarded - c.told) < 64 * limits::kKiB ||
            c.forwarded - c.told > c.buffer_bytes / 2)
            control(c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        return bytes;
    }
    void shutdown(GuestConnection& c, uint8_t flags) {
        c.own_shut |= flags;
        EXPECT_TRUE(control(c, VIRTIO_VSOCK_OP_SHUTDOWN, c.own_shut));
    }
    void close(GuestConnection& c) { shutdown(c, 3); }

    GuestConnection* only() {
        return connections.size() == 1 ? &connections.begin()->second : nullptr;
    }

    // Serves its interrupts; says whether anything happened.
    bool step() {
        bool progress = false;
        if (std::exchange(seen[0], line.used[0]) != line.used[0] || line.used[0] == 0) {
            while (take_rx())
                progress = true;
        }
        reap_tx();
        while (take_event())
            progress = true;
        refill();
        progress |= kicked;
        ring_doorbell();
        return progress;
    }

    Options options;
    VsockDevice* device;
    const GuestMemory& memory;
    CountingLine line;
    uint64_t cid = 3;
    bool refilling = true;
    bool answers_events = true;
    bool answers_requests = true;
    std::set<uint32_t> listening;
    std::map<uint64_t, GuestConnection> connections;
    std::vector<VsockHeader> packets;  // the headers that came, if `recording`
    bool recording = false;
    unsigned transport_resets = 0;
    bool rang = false;  // the doorbell, since somebody last looked: there may be answers

    static constexpr unsigned kTxBuffers = 64;
    static constexpr uint32_t kTxBytes = 64 * limits::kKiB + sizeof(VsockHeader);

  private:
    bool take(uint16_t queue, UsedElement& element) {
        auto used = driver(queue).take_used();
        if (!used) {
            driver(queue).set_used_event(taken[queue]);
            used = driver(queue).take_used();
            if (!used)
                return false;
        }
        taken[queue]++;
        element = *used;
        return true;
    }
    void reap_tx() {
        UsedElement used;
        while (take(1, used)) {
            auto head = static_cast<uint16_t>(used.head);
            tx_spare.push_back(tx_used.at(head));
            tx_used.erase(head);
        }
    }
    bool take_event() {
        UsedElement used;
        if (!take(2, used))
            return false;
        if (used.written == sizeof(virtio_vsock_event)) {
            transport_resets++;
            for (auto& [key, c] : connections)
                c.reset = c.finished = true;
        }
        if (answers_events)
            add(2, {Buffer{events.allocate(16), sizeof(virtio_vsock_event), true}});
        return true;
    }
    bool take_rx() {
        UsedElement used;
        if (!take(0, used))
            return false;
        auto head = static_cast<uint16_t>(used.head);
        Buffer buffer = rx_used.at(head);
        rx_used.erase(head);
        rx_spare.push_back(buffer);
        if (used.written >= sizeof(VsockHeader)) {
            auto h = *memory.read<VsockHeader>(buffer.address);
            EXPECT_EQ(h.len, used.written - sizeof(VsockHeader));
            std::string payload(h.len, 0);
            EXPECT_TRUE(memory
                            .read_bytes(*buffer.address.checked_add(sizeof(h)),
                                        std::as_writable_bytes(std::span(payload)))
                            .has_value());
            receive(h, payload);
        }
        return true;
    }
    void receive(const VsockHeader& h, const std::string& payload) {
        if (recording)
            packets.push_back(h);
        EXPECT_EQ(h.src_cid, 2u);
        EXPECT_EQ(h.dst_cid, cid);
        VsockPorts ports{h.src_port, h.dst_port};
        auto found = connections.find(ports.key());
        if (h.op == VIRTIO_VSOCK_OP_REQUEST) {
            if (!answers_requests)
                return;
            GuestConnection& c = connections[ports.key()];
            c = {};
            c.ports = ports;
            hear(c, h);
            c.established = listening.contains(ports.guest);
            c.finished = !c.established;
            EXPECT_TRUE(control(c, c.established ? VIRTIO_VSOCK_OP_RESPONSE : VIRTIO_VSOCK_OP_RST));
            return;
        }
        if (found == connections.end())
            return;
        GuestConnection& c = found->second;
        hear(c, h);
        switch (h.op) {
            case VIRTIO_VSOCK_OP_RESPONSE:
                c.established = true;
                break;
            case VIRTIO_VSOCK_OP_RST:
                c.reset = c.finished = true;
                c.established = false;
                break;
            case VIRTIO_VSOCK_OP_SHUTDOWN:
                c.host_shut |= static_cast<uint8_t>(h.flags);
                if (c.host_shut == 3 && !c.finished) {
                    c.finished = true;
                    EXPECT_TRUE(control(c, VIRTIO_VSOCK_OP_RST));
                }
                break;
            case VIRTIO_VSOCK_OP_RW:
                EXPECT_TRUE(c.established) << "data before the connection stands";
                EXPECT_EQ(c.host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND, 0) << "data after the end";
                c.received += h.len;
                c.largest_packet = std::max(c.largest_packet, uint32_t{h.len});
                EXPECT_LE(c.received - c.forwarded, c.buffer_bytes)
                    << "the host overran our credit";
                c.unread += payload;
                if (c.greedy) {
                    std::string bytes = read(c);
                    c.total += bytes.size();
                    c.checksum = add_to_checksum(c.checksum, bytes);
                }
                break;
            case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
                EXPECT_TRUE(control(c, VIRTIO_VSOCK_OP_CREDIT_UPDATE));
                break;
            default:
                break;
        }
    }
    static void hear(GuestConnection& c, const VsockHeader& h) {
        c.host_buffer = h.buf_alloc;
        c.host_forwarded = h.fwd_cnt;
    }

    FakeDriver rx{memory, GuestAddress(0x10000), 256, 16 * limits::kMiB};
    FakeDriver tx{memory, GuestAddress(0x1100000), 256, 8 * limits::kMiB};
    FakeDriver events{memory, GuestAddress(0x1a00000), 64};
    std::vector<Buffer> rx_spare;
    std::map<uint16_t, Buffer> rx_used;
    std::vector<GuestAddress> tx_spare;
    std::map<uint16_t, GuestAddress> tx_used;
    uint16_t added[3] = {};
    uint16_t taken[3] = {};
    unsigned seen[3] = {};
    bool kicked = false;
};

}  // namespace spore::test
