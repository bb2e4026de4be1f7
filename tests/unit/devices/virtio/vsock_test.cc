// The vsock device with an honest guest: connections, data, shutdowns.

#include "devices/virtio/vsock.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/unit/support/vsock_world.h"

namespace spore {
namespace {

using test::add_to_checksum;
using test::GuestConnection;
using test::HostProgram;
using test::VsockGuest;

class Vsock : public test::VsockWorld {
  protected:
    VsockGuest::Options options() const { return {.event_index = GetParam()}; }
};

INSTANTIATE_TEST_SUITE_P(Rings, Vsock, testing::Bool(),
                         [](const auto& p) { return p.param ? "EventIndex" : "Flags"; });

std::string noise(size_t size, unsigned seed) {
    std::string bytes(size, 0);
    std::minstd_rand random(seed);
    for (char& c : bytes)
        c = static_cast<char>(random() >> 7);
    return bytes;
}

TEST_P(Vsock, HostProgramReachesAGuestProgram) {
    make(options());
    auto [program, c] = host_connection();
    EXPECT_EQ(program.write("ping"), 4u);
    ASSERT_TRUE(until([&] { return c->unread == "ping"; }));
    guest->send(*c, "pong");
    std::string got;
    ASSERT_TRUE(until([&] { return (got += program.read()) == "pong"; }));
    EXPECT_EQ(device->vsock_counters().connections, 1u);
    EXPECT_EQ(device->vsock_counters().bytes_to_guest, 4u);
    EXPECT_EQ(device->vsock_counters().bytes_to_host, 4u);
}

TEST_P(Vsock, GuestProgramReachesAHostProgram) {
    make(options());
    auto [program, c] = guest_connection();
    guest->send(*c, "hello");
    std::string got;
    ASSERT_TRUE(until([&] { return (got += program.read()) == "hello"; }));
    EXPECT_EQ(program.write("back"), 4u);
    ASSERT_TRUE(until([&] { return c->unread == "back"; }));
}

TEST_P(Vsock, DataBehindTheConnectLineIsTheConnections) {
    make(options());
    guest->listening.insert(7);
    HostProgram program = dial("CONNECT 7\nearly bird");
    ASSERT_TRUE(until([&] { return guest->only() && guest->only()->unread == "early bird"; }));
    EXPECT_TRUE(program.read().starts_with("OK "));
}

TEST_P(Vsock, ALineMayComeInPieces) {
    make(options());
    guest->listening.insert(7);
    HostProgram program = dial("CONN");
    settle();
    program.write("ECT 7");
    settle();
    program.write("\r\nx");
    ASSERT_TRUE(until([&] { return guest->only() && guest->only()->unread == "x"; }));
}

TEST_P(Vsock, GuestRefusesAPortNobodyListensAt) {
    make(options());
    HostProgram program = dial("CONNECT 99\n");
    ASSERT_TRUE(until([&] { return program.read().empty() && program.ended; }));
    EXPECT_EQ(device->vsock_counters().refused, 1u);
    EXPECT_EQ(device->connection_count(), 0u);
}

TEST_P(Vsock, HostRefusesAPortNobodyListensAt) {
    make(options());
    GuestConnection& c = guest->connect(99, 1000);
    ASSERT_TRUE(until([&] { return c.reset; }));
    EXPECT_FALSE(c.established);
    EXPECT_EQ(device->connection_count(), 0u);
}

TEST_P(Vsock, AStaleHostSocketRefusesToo) {
    make(options());
    listen(99).reset();  // the file stays
    GuestConnection& c = guest->connect(99, 1000);
    ASSERT_TRUE(until([&] { return c.reset; }));
}

TEST_P(Vsock, SixtyFourMegabytesFromHostToGuest) {
    make(options());
    auto [program, c] = host_connection();
    c->greedy = true;
    std::string data = noise(64 << 20, 1);
    size_t written = 0;
    std::minstd_rand random(2);
    background = [&] {
        size_t n = program.write(std::string_view(data).substr(written, 1 + random() % 100'000));
        written += n;
        return n > 0;
    };
    ASSERT_TRUE(until([&] { return c->total == data.size(); }));
    EXPECT_EQ(c->checksum, add_to_checksum(0, data));
    EXPECT_EQ(device->buffered_bytes(), 0u);
}

TEST_P(Vsock, SixtyFourMegabytesFromGuestToHost) {
    make(options());
    auto [program, c] = guest_connection();
    std::string data = noise(64 << 20, 3);
    size_t sent = 0, got = 0, most_buffered = 0;
    uint64_t checksum = 0;
    std::minstd_rand random(4);
    background = [&] {
        size_t n = guest->send(*c, std::string_view(data).substr(sent, 1 + random() % 65536));
        sent += n;
        std::string bytes = program.read(1 + random() % 200'000);
        got += bytes.size();
        checksum = add_to_checksum(checksum, bytes);
        most_buffered = std::max(most_buffered, device->buffered_bytes());
        return n > 0 || !bytes.empty();
    };
    ASSERT_TRUE(until([&] { return got == data.size(); }));
    EXPECT_EQ(checksum, add_to_checksum(0, data));
    EXPECT_LE(most_buffered, limits::kVsockBufferBytes);
    EXPECT_EQ(device->buffered_bytes(), 0u);
    EXPECT_EQ(device->vsock_counters().credit_violations, 0u);
}

TEST_P(Vsock, LargeRxBuffersGetLargePackets) {
    make({.event_index = GetParam(),
          .rx_buffers = 8,
          .rx_buffer_bytes = 64 * limits::kKiB + sizeof(VsockHeader)});
    auto [program, c] = host_connection();
    c->greedy = true;
    std::string data = noise(4 << 20, 1);
    size_t written = 0;
    background = [&] {
        size_t n = program.write(std::string_view(data).substr(written, 1 << 20));
        written += n;
        return n > 0;
    };
    ASSERT_TRUE(until([&] { return c->total == data.size(); }));
    EXPECT_EQ(c->checksum, add_to_checksum(0, data));
    EXPECT_EQ(c->largest_packet, 64 * limits::kKiB);
}

TEST_P(Vsock, TinyRxBuffersWorkToo) {
    make({.event_index = GetParam(), .rx_buffers = 5, .rx_buffer_bytes = sizeof(VsockHeader) + 3});
    auto [program, c] = host_connection();
    c->greedy = true;
    std::string data = noise(50'000, 1);
    EXPECT_EQ(program.write(data), data.size());
    ASSERT_TRUE(until([&] { return c->total == data.size(); }));
    EXPECT_EQ(c->checksum, add_to_checksum(0, data));
}

TEST_P(Vsock, SlowHostReaderHoldsTheGuestBack) {
    make(options());
    auto [program, c] = guest_connection();
    std::string data = noise(4 << 20, 5);
    size_t sent = 0;
    background = [&] {
        size_t n = guest->send(*c, std::string_view(data).substr(sent, 65536));
        sent += n;
        return n > 0;
    };
    settle();
    EXPECT_LT(sent, data.size());
    EXPECT_EQ(c->room(), 0u);
    EXPECT_LE(device->buffered_bytes(), limits::kVsockBufferBytes);
    EXPECT_GT(device->buffered_bytes(), 0u);
    std::string got;
    background = [&, writer = std::move(background)] {
        size_t before = got.size();
        got += program.read(10'000);
        return writer() || got.size() > before;
    };
    ASSERT_TRUE(until([&] { return got.size() == data.size(); }));
    EXPECT_EQ(got, data);
    EXPECT_EQ(device->vsock_counters().credit_violations, 0u);
}

TEST_P(Vsock, SlowGuestReaderHoldsTheHostBack) {
    make(options());
    auto [program, c] = host_connection();
    c->buffer_bytes = 100'000;
    guest->control(*c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    std::string data = noise(2 << 20, 6);
    size_t written = 0;
    background = [&] {
        size_t n = program.write(std::string_view(data).substr(written, 65536));
        written += n;
        return n > 0;
    };
    settle();
    EXPECT_EQ(c->unread.size(), 100'000u);
    EXPECT_LT(written, data.size());
    std::string got;
    background = [&, writer = std::move(background)] {
        size_t before = got.size();
        got += guest->read(*c, 7'000);
        return writer() || got.size() > before;
    };
    ASSERT_TRUE(until([&] { return got.size() == data.size(); }));
    EXPECT_EQ(got, data);
}

TEST_P(Vsock, TwoHundredConnectionsAtOnce) {
    make(options());
    UniqueFd listener = listen(80);
    guest->listening.insert(52);
    std::vector<std::pair<HostProgram, GuestConnection*>> pairs;
    for (unsigned count = 0; count < 100; count++)
        pairs.push_back(host_connection());
    for (unsigned count = 0; count < 100; count++) {
        GuestConnection& c = guest->connect(80, 2000 + count);
        ASSERT_TRUE(until([&] { return c.established; }));
        pairs.emplace_back(accept(listener), &c);
    }
    constexpr size_t kSize = 200'000;
    std::vector<std::string> down, up;
    std::vector<size_t> written(200), sent(200);
    std::vector<uint64_t> sums(200);
    std::vector<size_t> got(200);
    for (unsigned i = 0; i < 200; i++) {
        down.push_back(noise(kSize, i));
        up.push_back(noise(kSize, 1000 + i));
        pairs[i].second->greedy = true;
    }
    size_t finished = 0;
    background = [&] {
        bool progress = false;
        finished = 0;
        for (unsigned i = 0; i < 200; i++) {
            auto& [program, c] = pairs[i];
            size_t w = program.write(std::string_view(down[i]).substr(written[i], 9'000));
            size_t s = guest->send(*c, std::string_view(up[i]).substr(sent[i], 11'000));
            std::string bytes = program.read();
            written[i] += w;
            sent[i] += s;
            got[i] += bytes.size();
            sums[i] = add_to_checksum(sums[i], bytes);
            progress |= w + s + bytes.size() > 0;
            finished += got[i] == kSize && c->total == kSize;
        }
        return progress;
    };
    ASSERT_TRUE(until([&] { return finished == 200; }));
    for (unsigned i = 0; i < 200; i++) {
        EXPECT_EQ(sums[i], add_to_checksum(0, up[i]));
        EXPECT_EQ(pairs[i].second->checksum, add_to_checksum(0, down[i]));
    }
    EXPECT_EQ(device->buffered_bytes(), 0u);
}

TEST_P(Vsock, TakesTurnsWhenBuffersAreScarce) {
    make({.event_index = GetParam(), .rx_buffers = 1});
    auto [one, c1] = host_connection();
    auto [two, c2] = host_connection();
    std::string data = noise(100'000, 1);
    EXPECT_EQ(one.write(data), data.size());
    EXPECT_EQ(two.write(data), data.size());
    ASSERT_TRUE(until([&] { return c1->unread.size() + c2->unread.size() > 80'000; }));
    EXPECT_GT(c1->unread.size(), 30'000u);
    EXPECT_GT(c2->unread.size(), 30'000u);
}

TEST_P(Vsock, HostHalfCloseStillReadsTheAnswer) {
    make(options());
    auto [program, c] = host_connection();
    program.write("question");
    program.shut_write();
    ASSERT_TRUE(until([&] { return c->host_shut == VIRTIO_VSOCK_SHUTDOWN_SEND; }));
    EXPECT_EQ(c->unread, "question");
    guest->send(*c, "answer");
    guest->close(*c);
    std::string got;
    ASSERT_TRUE(until([&] {
        got += program.read();
        return program.ended && c->reset;
    }));
    EXPECT_EQ(got, "answer");
    EXPECT_TRUE(program.clean);
    EXPECT_EQ(device->connection_count(), 0u);
}

TEST_P(Vsock, GuestHalfCloseStillReadsTheAnswer) {
    make(options());
    auto [program, c] = guest_connection();
    guest->send(*c, "question");
    guest->shutdown(*c, VIRTIO_VSOCK_SHUTDOWN_SEND);
    std::string got;
    ASSERT_TRUE(until([&] {
        got += program.read();
        return program.ended;
    }));
    EXPECT_EQ(got, "question");
    program.write("answer");
    program.fd.reset();
    ASSERT_TRUE(until([&] { return c->finished; }));
    EXPECT_EQ(c->unread, "answer");
    ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
}

TEST_P(Vsock, GuestThatStopsReadingBreaksTheHostsWrites) {
    make(options());
    auto [program, c] = host_connection();
    guest->shutdown(*c, VIRTIO_VSOCK_SHUTDOWN_RCV);
    ASSERT_TRUE(until([&] { return program.write("x") == 0 && program.broken; }));
    guest->send(*c, "still talking");
    std::string got;
    ASSERT_TRUE(until([&] { return (got += program.read()) == "still talking"; }));
    program.fd.reset();
    ASSERT_TRUE(until([&] { return c->finished && device->connection_count() == 0; }));
}

TEST_P(Vsock, GuestsPendingDataComesBeforeTheEndThoughTheHostIsSlow) {
    make(options());
    auto [program, c] = guest_connection();
    std::string data = noise(4 << 20, 5);
    size_t sent = 0;
    background = [&] {
        size_t n = guest->send(*c, std::string_view(data).substr(sent, 65536));
        sent += n;
        return n > 0;
    };
    settle();
    background = nullptr;
    ASSERT_GT(device->buffered_bytes(), 0u);
    guest->close(*c);
    settle();
    EXPECT_FALSE(c->reset) << "the goodbye is answered when everything is delivered";
    std::string got;
    background = [&] {
        size_t before = got.size();
        got += program.read(10'000);
        return got.size() > before;
    };
    ASSERT_TRUE(until([&] { return program.ended; }));
    EXPECT_EQ(got, data.substr(0, sent));
    EXPECT_TRUE(program.clean);
    ASSERT_TRUE(until([&] { return c->reset && device->connection_count() == 0; }));
}

TEST_P(Vsock, AGuestTiredOfWaitingForTheEndStillGetsItsDataDelivered) {
    make(options());
    auto [program, c] = guest_connection();
    std::string data = noise(4 << 20, 5);
    size_t sent = 0;
    background = [&] {
        size_t n = guest->send(*c, std::string_view(data).substr(sent, 65536));
        sent += n;
        return n > 0;
    };
    settle();
    background = nullptr;
    guest->close(*c);
    guest->control(*c, VIRTIO_VSOCK_OP_RST);
    std::string got;
    background = [&] {
        size_t before = got.size();
        got += program.read(10'000);
        return got.size() > before;
    };
    ASSERT_TRUE(until([&] { return program.ended; }));
    EXPECT_EQ(got, data.substr(0, sent));
    ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
}

TEST_P(Vsock, HostsPendingDataComesBeforeTheEndThoughTheGuestIsSlow) {
    make(options());
    auto [program, c] = host_connection();
    c->buffer_bytes = 20'000;
    guest->control(*c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    std::string data = noise(150'000, 1);
    settle();
    EXPECT_EQ(program.write(data), data.size());
    program.fd.reset();
    settle();
    EXPECT_EQ(c->host_shut, 0);
    std::string got;
    background = [&] {
        size_t before = got.size();
        got += guest->read(*c, 3'000);
        return got.size() > before;
    };
    ASSERT_TRUE(until([&] { return c->host_shut == 3 && c->unread.empty(); }));
    EXPECT_EQ(got, data);
    ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
}

TEST_P(Vsock, AResetInMidstreamEndsBothSides) {
    make(options());
    auto [program, c] = host_connection();
    c->greedy = true;
    background = [&] { return program.write(std::string(50'000, 'x')) > 0; };
    ASSERT_TRUE(until([&] { return c->total > 1 << 20; }));
    c->finished = true;
    c->established = false;
    guest->control(*c, VIRTIO_VSOCK_OP_RST);
    guest->connections.clear();
    ASSERT_TRUE(until([&] { return program.broken && device->connection_count() == 0; }));
}

TEST_P(Vsock, NothingIsLostWhenTheRxQueueIsEmptyForAWhile) {
    make(options());
    UniqueFd listener = listen(80);
    auto [program, c] = host_connection();
    guest->refilling = false;
    std::string data = noise(4 << 20, 1);
    size_t written = 0;
    background = [&] {
        size_t n = program.write(std::string_view(data).substr(written, 65536));
        written += n;
        return n > 0;
    };
    settle();
    // More resets than may wait, and a response, while no buffer is there.
    guest->recording = true;
    GuestConnection& other = guest->connect(80, 7);
    GuestConnection stranger;
    unsigned strangers = 0;
    for (; strangers < limits::kVsockResetsMax + 20; strangers++) {
        stranger.ports = {5, strangers};
        guest->ring_doorbell();
        if (!guest->send_raw(guest->header(stranger, VIRTIO_VSOCK_OP_CREDIT_REQUEST)))
            break;
    }
    guest->ring_doorbell();
    EXPECT_GT(strangers, limits::kVsockResetsMax);
    EXPECT_FALSE(other.established);
    c->greedy = true;
    c->total = c->unread.size();
    c->checksum = add_to_checksum(0, guest->read(*c));
    guest->refilling = true;
    ASSERT_TRUE(until([&] { return c->total == data.size() && other.established; }));
    EXPECT_EQ(c->checksum, add_to_checksum(0, data));
    size_t resets = 0;
    ASSERT_TRUE(until([&] {
        resets = static_cast<size_t>(std::ranges::count(
            guest->packets, uint16_t{VIRTIO_VSOCK_OP_RST}, [](auto& h) { return uint16_t{h.op}; }));
        return resets >= strangers;
    }));
    EXPECT_EQ(resets, strangers);
}

TEST_P(Vsock, OneInterruptForABatch) {
    make({.event_index = GetParam(), .rx_buffers = 64});
    auto [program, c] = host_connection();
    unsigned before = guest->line.used[VsockDevice::kRxQueue];
    EXPECT_EQ(program.write(std::string(100'000, 'x')), 100'000u);
    ASSERT_TRUE(until([&] { return c->unread.size() == 100'000; }));
    EXPECT_LE(guest->line.used[VsockDevice::kRxQueue] - before, 12u) << "for 25 packets";
}

TEST_P(Vsock, AttachedDescriptorIsAConnection) {
    make(options());
    guest->listening.insert(52);
    int ends[2] = {};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    HostProgram program{UniqueFd(ends[1])};
    ASSERT_TRUE(device->attach(UniqueFd(ends[0]), 52).has_value());
    program.write("no greeting");
    ASSERT_TRUE(until([&] { return guest->only() && guest->only()->unread == "no greeting"; }));
    guest->send(*guest->only(), "none here");
    std::string got;
    ASSERT_TRUE(until([&] { return (got += program.read()) == "none here"; }));
}

TEST_P(Vsock, HostPortsDoNotComeAgainSoon) {
    make(options());
    std::set<uint32_t> ports;
    for (unsigned count = 0; count < 50; count++) {
        auto [program, c] = host_connection();
        EXPECT_TRUE(ports.insert(c->ports.host).second);
        program.fd.reset();
        ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
    }
}

}  // namespace
}  // namespace spore
