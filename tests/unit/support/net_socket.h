#pragma once

// A network device on one end of a socket pair, its peer on the other, both in this thread.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>

#include "tests/unit/support/net_guest.h"

namespace spore::test {

inline constexpr uint64_t kMergeable = feature_bit(kNetMergeableBuffers);

inline std::string framed(std::string_view frame) {
    uint32_t length = htonl(static_cast<uint32_t>(frame.size()));
    return std::string(reinterpret_cast<const char*>(&length), 4) + std::string(frame);
}

class NetSocketTest : public testing::Test {
  protected:
    void SetUp() override {
        auto made = EventLoop::create();
        if (!made)
            GTEST_SKIP() << made.error().message;
        loop = std::move(*made);
    }
    void TearDown() override {
        if (guest)
            quiesce();
        guest.reset();
        if (loop)
            loop->drain();
    }

    UniqueFd make_pair() {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        peer = UniqueFd(ends[1]);
        EXPECT_EQ(::fcntl(peer.get(), F_SETFL, O_NONBLOCK), 0);
        return UniqueFd(ends[0]);
    }
    std::unique_ptr<VirtioNet> make_device() {
        NetConfig config;
        config.mac = {2, 0, 0, 0, 0, 1};
        config.socket_fd = make_pair();
        auto device = VirtioNet::create(std::move(config), memory, *loop);
        EXPECT_TRUE(device.has_value()) << device.error().message;
        return std::move(*device);
    }
    void start(uint64_t features = kMergeable) {
        guest = std::make_unique<NetGuest>(make_device(), memory, features);
    }
    void wait(const std::function<bool()>& done) { ASSERT_TRUE(loop->run_until(done, kPatience)); }
    void quiesce() {
        bool done = false;
        guest->device->quiesce([&] { done = true; });
        wait([&] { return done; });
    }
    void reset() {
        bool done = false;
        guest->device->reset([&] { done = true; });
        wait([&] { return done; });
    }
    // What the peer has sent so far: as much as goes.
    void peer_flush() {
        while (!peer_out.empty()) {
            ssize_t sent = ::send(peer.get(), peer_out.data(), peer_out.size(), MSG_NOSIGNAL);
            if (sent <= 0)
                return;
            peer_out.erase(0, static_cast<size_t>(sent));
        }
    }
    void peer_send(std::string_view frame) {
        peer_out += framed(frame);
        peer_flush();
    }
    // The next frame from the device, if it is there whole.
    std::optional<std::string> peer_receive(bool read = true) {
        char bytes[65536];
        ssize_t got = read ? ::recv(peer.get(), bytes, sizeof(bytes), 0) : 0;
        if (got > 0)
            peer_in.append(bytes, static_cast<size_t>(got));
        if (peer_in.size() < 4)
            return std::nullopt;
        uint32_t length = 0;
        std::memcpy(&length, peer_in.data(), 4);
        length = ntohl(length);
        if (peer_in.size() < 4 + length)
            return std::nullopt;
        std::string frame = peer_in.substr(4, length);
        peer_in.erase(0, 4 + length);
        return frame;
    }
    std::string expect_peer_receives() {
        std::optional<std::string> frame;
        EXPECT_TRUE(
            loop->run_until([&] { return (frame = peer_receive()).has_value(); }, kPatience));
        return frame.value_or("");
    }
    test::ReceivedFrame expect_guest_receives() {
        std::optional<test::ReceivedFrame> frame;
        EXPECT_TRUE(
            loop->run_until([&] { return (frame = guest->receive()).has_value(); }, kPatience));
        return frame.value_or(test::ReceivedFrame{});
    }
    const NetCounters& counters() { return guest->device->net_counters(); }

    GuestMemory memory = test::make_memory(16 * limits::kMiB);
    std::unique_ptr<EventLoop> loop;
    UniqueFd peer;
    std::string peer_out;
    std::string peer_in;
    std::unique_ptr<NetGuest> guest;
};

}  // namespace spore::test
