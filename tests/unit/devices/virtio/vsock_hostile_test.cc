// The vsock device with a guest, and host programs, that do not keep to the rules.

#include <gtest/gtest.h>

#include "devices/virtio/vsock.h"
#include "tests/unit/support/vsock_world.h"

namespace spore {
namespace {

using namespace std::chrono_literals;
using test::GuestConnection;
using test::HostProgram;
using test::VsockGuest;

class VsockHostile : public test::VsockWorld {
  protected:
    // The device still serves others.
    void expect_alive() {
        EXPECT_EQ(guest->line.failures, 0u);
        auto [program, c] = host_connection(4000 + alive++);
        EXPECT_EQ(program.write("ping"), 4u);
        EXPECT_TRUE(until([&] { return c->unread == "ping"; }));
    }
    void expect_reset(GuestConnection& c, HostProgram& program) {
        EXPECT_TRUE(until([&] {
            program.read();
            return c.reset && program.ended;
        }));
    }
    const VsockCounters& counters() const { return device->vsock_counters(); }

    uint32_t alive = 0;
};

TEST_F(VsockHostile, AGuestThatOverrunsItsCreditIsResetAndCounted) {
    make();
    auto [program, c] = guest_connection();
    std::string packet(60'000, 'x');
    size_t sent = 0;
    while (!c->reset && sent < 4 * limits::kMiB) {  // the host program reads nothing
        ASSERT_TRUE(guest->send_raw(guest->header(*c, VIRTIO_VSOCK_OP_RW, 60'000), packet));
        sent += packet.size();
        guest->step();
        EXPECT_LE(device->buffered_bytes(), limits::kVsockBufferBytes);
    }
    EXPECT_TRUE(c->reset);
    EXPECT_EQ(counters().credit_violations, 1u);
    EXPECT_EQ(device->buffered_bytes(), 0u);
    expect_alive();
}

TEST_F(VsockHostile, DataBeforeTheResponseIsAnOverrunToo) {
    make();
    UniqueFd listener = listen(80);
    guest->refilling = false;
    GuestConnection& c = guest->connect(80, 7);
    ASSERT_TRUE(
        guest->send_raw(guest->header(c, VIRTIO_VSOCK_OP_RW, 60'000), std::string(60'000, 'x')));
    guest->refilling = true;
    ASSERT_TRUE(until([&] { return c.reset; }));
    expect_alive();
}

TEST_F(VsockHostile, ALengthBeyondTheChainResetsTheConnection) {
    make();
    for (uint32_t length : {5u, 65'537u, 0xffff'ffffu, 0xffff'ffd4u}) {
        auto [program, c] = host_connection();
        ASSERT_TRUE(guest->send_raw(guest->header(*c, VIRTIO_VSOCK_OP_RW, length), "four"));
        expect_reset(*c, program);
    }
    EXPECT_EQ(counters().bad_packets, 4u);
    expect_alive();
}

TEST_F(VsockHostile, ALengthBelowTheChainTakesThatMuch) {
    make();
    auto [program, c] = host_connection();
    ASSERT_TRUE(guest->send_raw(guest->header(*c, VIRTIO_VSOCK_OP_RW, 4), "four and more"));
    std::string got;
    ASSERT_TRUE(until([&] { return !(got += program.read()).empty(); }));
    EXPECT_EQ(got, "four");
}

TEST_F(VsockHostile, UnknownOperationsResetTheConnection) {
    make();
    for (uint16_t op : std::initializer_list<uint16_t>{0, 8, 0xffff}) {
        auto [program, c] = host_connection();
        ASSERT_TRUE(guest->send_raw(guest->header(*c, op)));
        expect_reset(*c, program);
    }
    expect_alive();
}

TEST_F(VsockHostile, OtherTypesThanStreamsAreRefused) {
    make();
    UniqueFd listener = listen(80);
    guest->recording = true;
    for (uint16_t type :
         std::initializer_list<uint16_t>{0, VIRTIO_VSOCK_TYPE_SEQPACKET, 3, 0xffff}) {
        GuestConnection c;
        c.ports = {80, 9};
        VsockHeader header = guest->header(c, VIRTIO_VSOCK_OP_REQUEST);
        header.type = type;
        guest->packets.clear();
        ASSERT_TRUE(guest->send_raw(header));
        ASSERT_TRUE(until([&] { return guest->packets.size() == 1; }));
        EXPECT_EQ(guest->packets[0].op, VIRTIO_VSOCK_OP_RST);
        EXPECT_EQ(guest->packets[0].type, type);
        EXPECT_EQ(guest->packets[0].src_port, 80u);
        EXPECT_EQ(guest->packets[0].dst_port, 9u);
    }
    EXPECT_EQ(device->connection_count(), 0u);
    expect_alive();
}

TEST_F(VsockHostile, PacketsForNoConnectionAreResetButAResetIsNot) {
    make();
    guest->recording = true;
    GuestConnection stranger;
    stranger.ports = {5, 6};
    ASSERT_TRUE(guest->send_raw(guest->header(stranger, VIRTIO_VSOCK_OP_RST)));
    settle();
    EXPECT_TRUE(guest->packets.empty());
    for (uint16_t op : {VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_RW,
                        VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST}) {
        guest->packets.clear();
        ASSERT_TRUE(guest->send_raw(guest->header(stranger, op)));
        ASSERT_TRUE(until([&] { return guest->packets.size() == 1; }));
        EXPECT_EQ(guest->packets[0].op, VIRTIO_VSOCK_OP_RST);
    }
    EXPECT_EQ(counters().resets_received, 1u);
    EXPECT_EQ(counters().resets_sent, 5u);
}

TEST_F(VsockHostile, WrongCidsAreIgnoredAndCounted) {
    make();
    UniqueFd listener = listen(80);
    guest->recording = true;
    GuestConnection c;
    c.ports = {80, 9};
    for (auto [source, target] : {std::pair<uint64_t, uint64_t>{4, 2},
                                  {3, 1},
                                  {3, 3},
                                  {3, 0},
                                  {3 | uint64_t{1} << 32, 2},
                                  {3, 2 | uint64_t{1} << 32}}) {
        VsockHeader header = guest->header(c, VIRTIO_VSOCK_OP_REQUEST);
        header.src_cid = source;
        header.dst_cid = target;
        ASSERT_TRUE(guest->send_raw(header));
    }
    settle();
    EXPECT_TRUE(guest->packets.empty());
    EXPECT_EQ(counters().wrong_cids, 6u);
    EXPECT_EQ(device->connection_count(), 0u);
}

TEST_F(VsockHostile, ChainsTooShortForAHeaderAreDropped) {
    make();
    guest->driver(1).add({guest->driver(1).readable(test::bytes_of("short"))});
    guest->driver(1).add({guest->driver(1).writable(100)});
    device->kick();
    EXPECT_EQ(counters().bad_packets, 2u);
    EXPECT_EQ(guest->driver(1).used_index(), 2u);
    EXPECT_EQ(guest->line.failures, 0u);
}

TEST_F(VsockHostile, AnswersOutOfTurnResetTheConnection) {
    make();
    for (uint16_t op : {VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE}) {
        auto [program, c] = host_connection();
        ASSERT_TRUE(guest->send_raw(guest->header(*c, op)));
        expect_reset(*c, program);
    }
    expect_alive();
}

TEST_F(VsockHostile, DataAfterItsOwnShutdownResetsTheConnection) {
    make();
    auto [program, c] = host_connection();
    guest->shutdown(*c, VIRTIO_VSOCK_SHUTDOWN_SEND);
    ASSERT_TRUE(guest->send_raw(guest->header(*c, VIRTIO_VSOCK_OP_RW, 4), "late"));
    expect_reset(*c, program);
    expect_alive();
}

TEST_F(VsockHostile, CountersOfReadBytesThatLieOnlyStopTheGuestsOwnData) {
    make();
    auto [program, c] = host_connection();
    c->forwarded = 12'345;  // of 0 bytes sent
    guest->control(*c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    guest->step();
    program.write("waits");
    settle();
    EXPECT_TRUE(c->unread.empty());
    c->forwarded = 0;
    guest->control(*c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    ASSERT_TRUE(until([&] { return c->unread == "waits"; }));
}

TEST_F(VsockHostile, RxBuffersTooSmallForAHeaderGoBackUnused) {
    make({.rx_buffers = 0});
    GuestConnection stranger;
    stranger.ports = {5, 6};
    ASSERT_TRUE(guest->send_raw(guest->header(stranger, VIRTIO_VSOCK_OP_CREDIT_REQUEST)));
    auto& rx = guest->driver(0);
    for (unsigned count = 0; count < 10; count++)
        rx.add({rx.writable(43)});
    rx.add({rx.readable(test::bytes_of("not for writing"))});
    auto good = rx.writable(44);
    rx.add({good});
    guest->ring_doorbell();
    device->kick();
    EXPECT_EQ(counters().bad_buffers, 11u);
    EXPECT_EQ(rx.used_index(), 12u);
    EXPECT_EQ(memory.read<VsockHeader>(good.address)->op, VIRTIO_VSOCK_OP_RST);
}

TEST_F(VsockHostile, ABrokenQueueFailsTheDeviceAndEndsTheHostsConnections) {
    make();
    auto [program, c] = host_connection();
    guest->driver(1).publish(999);
    device->kick();
    EXPECT_EQ(guest->line.failures, 1u);
    ASSERT_TRUE(until([&] {
        program.read();
        return program.ended;
    }));
    EXPECT_EQ(device->connection_count(), 0u);
}

TEST_F(VsockHostile, GarbageInPlaceOfTheLineIsTurnedAway) {
    make();
    const std::string_view garbage[] = {
        "\n",
        "CONNECT\n",
        "CONNECT \n",
        "connect 52\n",
        "CONNECT 5x\n",
        "CONNECT 4294967296\n",
        "CONNECT -1\n",
        "CONNECT 4294967295\n",
        "CONNECT  52\n",
        "CONNECT 52 \n",
        "CONNECT 0x34\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT 00000000000000000000000000052\n",
    };
    for (std::string_view line : garbage) {
        HostProgram program = dial(line);
        ASSERT_TRUE(until([&] { return program.read().empty() && program.ended; })) << line;
    }
    HostProgram binary = dial(std::string(5000, '\0'));
    ASSERT_TRUE(until([&] { return binary.read().empty() && binary.ended; }));
    EXPECT_EQ(counters().clients_rejected, std::size(garbage) + 1);
    EXPECT_TRUE(guest->connections.empty());
    expect_alive();
}

TEST_F(VsockHostile, ClientsThatSayNothingAreTurnedAwayInTime) {
    config.line_limit = 100ms;
    make();
    std::vector<HostProgram> silent;
    for (unsigned count = 0; count < limits::kVsockClientsMax + 50; count++)
        silent.push_back(dial(count % 2 == 0 ? "" : "CONNECT 5"));
    auto [program, c] = host_connection();  // behind all of them, and served all the same
    EXPECT_EQ(program.write("x"), 1u);
    ASSERT_TRUE(until([&] {
        for (HostProgram& one : silent) {
            one.read();
            if (!one.ended)
                return false;
        }
        return true;
    }));
    EXPECT_EQ(counters().clients_rejected, silent.size());
    EXPECT_TRUE(until([&] { return c->unread == "x"; }));
}

TEST_F(VsockHostile, AGuestThatNeverAnswersIsGivenUpOn) {
    config.answer_limit = 100ms;
    make();
    guest->answers_requests = false;
    guest->recording = true;
    HostProgram program = dial("CONNECT 52\n");
    ASSERT_TRUE(until([&] { return program.read().empty() && program.ended; }));
    ASSERT_TRUE(until([&] { return guest->packets.size() == 2; }));
    EXPECT_EQ(guest->packets[1].op, VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(device->connection_count(), 0u);
}

TEST_F(VsockHostile, AClientThatLeavesBeforeTheAnswerIsNoticed) {
    config.answer_limit = 400ms;  // looked after four times as often
    make();
    guest->answers_requests = false;
    guest->recording = true;
    dial("CONNECT 52\n");
    ASSERT_TRUE(until(
        [&] { return guest->packets.size() == 2 && guest->packets[1].op == VIRTIO_VSOCK_OP_RST; }));
    EXPECT_EQ(counters().refused, 0u);
}

TEST_F(VsockHostile, AHostProgramThatHalfClosesAndThenLeavesIsNoticed) {
    make();
    auto [program, c] = host_connection();
    program.shut_write();
    ASSERT_TRUE(until([&] { return c->host_shut == VIRTIO_VSOCK_SHUTDOWN_SEND; }));
    program.fd.reset();
    ASSERT_TRUE(until([&] { return c->host_shut == 3; }));
    ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
}

TEST_F(VsockHostile, TwoThousandClientsMeetTheLimit) {
    if (descriptors < 2 * limits::kRingFiles)
        GTEST_SKIP() << "RLIMIT_NOFILE is " << descriptors << ", 4096 are needed";
    make();
    guest->listening.insert(52);
    std::vector<HostProgram> programs;
    size_t accepted = 0, closed = 0;
    std::vector<bool> done;
    background = [&] {
        bool progress = false;
        for (size_t i = 0; i < programs.size(); i++) {
            if (done[i])
                continue;
            std::string line = programs[i].read(64);
            if (line.empty() && !programs[i].ended)
                continue;
            progress = done[i] = true;
            (line.empty() ? closed : accepted)++;
        }
        return progress;
    };
    for (unsigned count = 0; count < 2000; count++) {
        programs.push_back(dial("CONNECT 52\n"));
        done.push_back(false);
        if (count % 50 == 49) {
            ASSERT_TRUE(until([&] { return accepted + closed == programs.size(); }));
        }
    }
    EXPECT_EQ(accepted, limits::kVsockConnectionsMax);
    EXPECT_EQ(closed, 2000 - limits::kVsockConnectionsMax);
    EXPECT_EQ(device->connection_count(), limits::kVsockConnectionsMax);
    EXPECT_EQ(counters().refused, closed);

    UniqueFd listener = listen(80);
    GuestConnection& c = guest->connect(80, 9);
    ASSERT_TRUE(until([&] { return c.reset; })) << "the guest meets it as well";
    programs.clear();
    done.clear();
    ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
    expect_alive();
}

TEST_F(VsockHostile, AConnectionThatTheGuestForgotYieldsItsPlaceAtTheLimit) {
    if (descriptors < 2 * limits::kRingFiles)
        GTEST_SKIP() << "RLIMIT_NOFILE is " << descriptors << ", 4096 are needed";
    make();
    UniqueFd listener = listen(80);
    std::vector<HostProgram> programs;
    for (uint32_t port = 0; port < limits::kVsockConnectionsMax; port++) {
        GuestConnection& c = guest->connect(80, 5000 + port);
        ASSERT_TRUE(until([&] { return c.established; }));
        HostProgram program = accept(listener);
        if (port == 77) {
            c.finished = true;  // this one will not answer the goodbye
            program.fd.reset();
            ASSERT_TRUE(until([&] { return c.host_shut == 3; }));
        }
        programs.push_back(std::move(program));
    }
    EXPECT_EQ(device->connection_count(), limits::kVsockConnectionsMax);
    auto& forgotten = guest->connections.at(VsockPorts{80, 5077}.key());
    EXPECT_FALSE(forgotten.reset);
    GuestConnection& c = guest->connect(80, 9);
    ASSERT_TRUE(until([&] { return c.established && forgotten.reset; }));
}

}  // namespace
}  // namespace spore
