#pragma once

// A network device and a guest's driver for it, for tests of either back end.

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "devices/virtio/net.h"
#include "tests/unit/support/fake_driver.h"

namespace spore::test {

inline constexpr auto kPatience = std::chrono::milliseconds(60'000);

// An Ethernet frame of `size` bytes (at least 30) for numbering and checking: the type is one
// for local experiments, then the number and a hash of everything behind it.
inline std::string numbered_frame(uint32_t number, size_t size) {
    static const std::string kNoise = [] {  // made once: this is much of such a test's time
        std::string noise(200'000, '\0');
        std::minstd_rand random(1);
        for (char& byte : noise)
            byte = static_cast<char>(random());
        return noise;
    }();
    std::string frame = kNoise.substr(number * 37u % 100'000, size);
    std::memcpy(frame.data(), "\x02\x11\x11\x11\x11\x11\x02\x22\x22\x22\x22\x22\x88\xb5", 14);
    uint64_t hash = std::hash<std::string_view>()(std::string_view(frame).substr(26));
    std::memcpy(frame.data() + 14, &number, 4);
    std::memcpy(frame.data() + 18, &hash, 8);
    return frame;
}
inline bool is_numbered(std::string_view frame) {
    return frame.size() >= 30 && frame.substr(12, 2) == "\x88\xb5";
}
inline uint32_t number_of(std::string_view frame) {
    uint32_t number = 0;
    std::memcpy(&number, frame.data() + 14, 4);
    return number;
}
inline bool is_intact(std::string_view frame) {
    uint64_t hash = 0;
    std::memcpy(&hash, frame.data() + 18, 8);
    return is_numbered(frame) && std::hash<std::string_view>()(frame.substr(26)) == hash;
}

struct ReceivedFrame {
    NetHeader header;
    std::string bytes;
};

class NetGuest {
  public:
    explicit NetGuest(std::unique_ptr<VirtioNet> net_device, GuestMemory& guest_memory,
                      uint64_t features)
        : memory(guest_memory), device(std::move(net_device)) {
        device->attach(&line);
        start(features);
    }

    void start(uint64_t features) {
        std::vector<std::byte> zeroes(64 * limits::kKiB);
        for (uint64_t base : {1 * limits::kMiB, 8 * limits::kMiB})
            EXPECT_TRUE(memory.write_bytes(GuestAddress(base), zeroes).has_value());
        EXPECT_TRUE(device->set_features(features | feature_bit(VIRTIO_F_VERSION_1)).has_value());
        for (FakeDriver* driver : {&rx, &tx}) {
            size_t index = driver == &tx ? VirtioNet::kTxQueue : VirtioNet::kRxQueue;
            ASSERT_TRUE(
                device->queues()[index]
                    .configure(driver->queue_state(), device->has_feature(kFeatureEventIndex))
                    .has_value());
        }
        device->activate();
    }

    // Gives the device `count` buffers of `pieces` descriptors, each of `size` bytes.
    void add_buffers(unsigned count, uint32_t size, unsigned pieces = 1) {
        for (unsigned index = 0; index < count; index++) {
            std::vector<Buffer> buffers;
            for (unsigned piece = 0; piece < pieces; piece++)
                buffers.push_back({rx.allocate(size), size, true});
            add_buffer(buffers);
        }
    }
    void add_buffer(const std::vector<Buffer>& buffers) { posted[rx.add(buffers)] = buffers; }

    // The next frame, from as many buffers as its header says; they are made available again if
    // `recycle`.
    std::optional<ReceivedFrame> receive(bool recycle = true) {
        auto used = rx.take_used();
        if (!used)
            return std::nullopt;
        ReceivedFrame frame;
        std::string bytes = take(*used, recycle);
        EXPECT_GE(bytes.size(), sizeof(NetHeader));
        std::memcpy(&frame.header, bytes.data(), sizeof(NetHeader));
        for (unsigned more = 1; more < frame.header.buffers; more++) {
            auto next = rx.take_used();
            EXPECT_TRUE(next.has_value()) << "a frame's buffers must appear at once";
            if (next)
                bytes += take(*next, recycle);
        }
        frame.bytes = bytes.substr(sizeof(NetHeader));
        return frame;
    }

    // Puts a frame into the transmit queue, header and frame in descriptors of their own.
    void send(std::string_view frame, NetHeader header = {}) {
        tx.add({tx.readable(bytes_of(header)), tx.readable(bytes_of(frame))});
        in_flight++;
    }
    void reclaim() {
        while (tx.take_used())
            in_flight--;
    }
    bool can_send() const { return in_flight < 100; }

    GuestMemory& memory;
    FakeDriver rx{memory, GuestAddress(1 * limits::kMiB), 256, 7 * limits::kMiB};
    FakeDriver tx{memory, GuestAddress(8 * limits::kMiB), 256, 8 * limits::kMiB};
    CountingLine line;
    std::unique_ptr<VirtioNet> device;
    std::map<uint32_t, std::vector<Buffer>> posted;  // by head
    unsigned in_flight = 0;

  private:
    std::string take(const UsedElement& used, bool recycle) {
        auto node = posted.extract(used.head);
        EXPECT_FALSE(node.empty());
        std::string bytes;
        for (const Buffer& buffer : node.mapped())
            bytes += rx.text(buffer);
        EXPECT_LE(used.written, bytes.size());
        bytes.resize(used.written);
        if (recycle)
            add_buffer(node.mapped());
        return bytes;
    }
};

}  // namespace spore::test
