// What a limited network card lets through in real time, both ways at once.
#include "tests/unit/support/net_socket.h"
#include "tests/unit/support/pace.h"

namespace spore {
namespace {

using namespace test;

class NetPaceTest : public NetSocketTest {
  protected:
    static constexpr size_t kFrameBytes = 1000;
    static constexpr unsigned kFrames = 64;

    void SetUp() override {
        NetSocketTest::SetUp();
        if (!loop)
            return;
        start();
        guest->add_buffers(kFrames, 2048);
        frame = numbered_frame(1, kFrameBytes);
        outgoing = {guest->tx.readable(bytes_of(NetHeader{})), guest->tx.readable(bytes_of(frame))};
    }
    // Keeps frames on their way in both directions, and takes those that have come.
    void pump() {
        guest->reclaim();
        for (; guest->in_flight < kFrames; guest->in_flight++)
            guest->tx.add(outgoing);
        while (peer_out.size() < kFrames * kFrameBytes)
            peer_out += framed(frame);
        peer_flush();
        while (guest->receive())
            continue;
        char bytes[65536];
        while (::recv(peer.get(), bytes, sizeof(bytes), 0) > 0)
            continue;
        guest->device->kick();
    }
    void expect_both(const char* unit, const RateLimits& limits, const Rate& rate, uint64_t one,
                     uint64_t NetCounters::* rx, uint64_t NetCounters::* tx) {
        guest->device->rx_rate().change(limits);
        guest->device->tx_rate().change(limits);
        auto paced = [&](const char* way, RateLimiter& limiter, uint64_t NetCounters::* counter) {
            return Paced{std::string("network, ") + unit + way, rate, limiter,
                         [this, counter] { return counters().*counter; }, kFrames * one};
        };
        const Paced all[] = {paced(" received", guest->device->rx_rate(), rx),
                             paced(" sent", guest->device->tx_rate(), tx)};
        expect_paces(*loop, all, [&] { pump(); });
        EXPECT_EQ(counters().rx_dropped + counters().tx_dropped, 0u);
    }

    std::string frame;
    std::vector<Buffer> outgoing;
};

TEST_F(NetPaceTest, BytesPassAtTheirRateEachWay) {
    constexpr Rate kRate = {1 << 20, 1 << 19};
    expect_both("bytes", {.bytes = kRate}, kRate, kFrameBytes, &NetCounters::rx_bytes,
                &NetCounters::tx_bytes);
}

TEST_F(NetPaceTest, PacketsPassAtTheirRateEachWay) {
    constexpr Rate kRate = {500, 250};
    expect_both("packets", {.operations = kRate}, kRate, 1, &NetCounters::rx_frames,
                &NetCounters::tx_frames);
}

}  // namespace
}  // namespace spore
