// One vsock connection carried through a snapshot: into the state, out of it, and attached to.

#include <gtest/gtest.h>

#include "devices/virtio/vsock.h"
#include "tests/unit/support/vsock_world.h"

namespace spore {
namespace {

using test::GuestConnection;
using test::HostProgram;
using test::VsockGuest;

class VsockCarry : public test::VsockWorld {
  protected:
    void SetUp() override { make({.event_index = GetParam()}); }

    // The machine is saved, its process ends, and another one takes on what was saved, paused.
    void move_on(const VsockState& state) {
        std::vector<QueueState> queues;
        for (Queue& queue : device->queues())
            queues.push_back(queue.state());
        uint64_t features = device->features();
        stop();
        device.reset();
        make_device();
        ASSERT_TRUE(device->restore(state).has_value());
        ASSERT_TRUE(device->restore(features, queues).has_value());
        guest->move_to(*device);
        if (!state.carried)
            device->announce_reset();
    }
    void carry(VsockPorts ports) {
        pause();
        auto state = device->save(ports);
        ASSERT_TRUE(state.has_value()) << state.error().message;
        ASSERT_TRUE(state->carried.has_value());
        EXPECT_EQ(state->carried->ports, ports);
        move_on(*state);
        EXPECT_TRUE(device->awaits_attach());
    }
    // A host connection over which data has gone both ways.
    std::pair<HostProgram, GuestConnection*> used_connection(uint32_t port = 1024) {
        auto [program, c] = host_connection(port);
        EXPECT_EQ(program.write("question"), 8u);
        EXPECT_TRUE(until([&, up = c] { return up->unread == "question"; }));
        guest->read(*c);
        EXPECT_EQ(guest->send(*c, "answer"), 6u);
        std::string got;
        EXPECT_TRUE(until([&, host = &program] { return (got += host->read()) == "answer"; }));
        return {std::move(program), c};
    }
    // Both directions carry more than a credit's worth.
    void exchange(HostProgram& program, GuestConnection& c) {
        constexpr size_t kBytes = 3 * limits::kVsockBufferBytes;
        size_t to_guest = 0, from_guest = 0, came = 0, went = 0;
        std::string piece(10'000, 'p');
        background = [&] {
            size_t before = to_guest + from_guest + came + went;
            if (to_guest < kBytes)
                to_guest += program.write(piece);
            came += guest->read(c).size();
            if (from_guest < kBytes)
                from_guest += guest->send(c, piece);
            went += program.read().size();
            return to_guest + from_guest + came + went != before;
        };
        EXPECT_TRUE(until([&] {
            return to_guest >= kBytes && from_guest >= kBytes && came == to_guest &&
                   went == from_guest;
        })) << to_guest
            << " " << came << " " << from_guest << " " << went;
        background = nullptr;
        EXPECT_TRUE(c.established);
    }
};

INSTANTIATE_TEST_SUITE_P(Rings, VsockCarry, testing::Bool(),
                         [](const auto& p) { return p.param ? "EventIndex" : "Flags"; });

TEST_P(VsockCarry, AProgramGoesOnWhereTheFirstLeftOff) {
    auto [before, c] = used_connection();
    exchange(before, *c);
    guest->recording = true;
    carry(c->ports);
    device->resume();
    settle();
    EXPECT_TRUE(guest->packets.empty()) << "nothing to say to the guest";
    HostProgram program = dial("ATTACH 1024\nhello");
    ASSERT_TRUE(until([&, up = c] { return up->unread == "hello"; }));
    EXPECT_EQ(guest->packets.size(), 1u) << "data at once, without a handshake";
    guest->read(*c);
    exchange(program, *c);
    EXPECT_FALSE(device->awaits_attach());
    EXPECT_EQ(guest->transport_resets, 0u);
    EXPECT_EQ(device->vsock_counters().credit_violations, 0u);
    program.fd.reset();
    ASSERT_TRUE(until([&, up = c] { return up->finished; })) << "it ends like any other";
    ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
}

TEST_P(VsockCarry, TheFirstMessageMayComeBeforeTheMachineRuns) {
    auto [before, c] = used_connection();
    carry(c->ports);
    HostProgram program = dial("ATTACH 1024\nfirst words");
    EXPECT_EQ(program.write(", and more"), 10u);
    settle();
    EXPECT_TRUE(c->unread.empty());
    device->resume();
    // Not one turn of the loop: it is there before any vCPU runs.
    guest->step();
    EXPECT_EQ(c->unread, "first words, and more");
    guest->read(*c);
    exchange(program, *c);
}

TEST_P(VsockCarry, TheLineMayComeInPieces) {
    auto [before, c] = used_connection();
    carry(c->ports);
    HostProgram program = dial("ATT");
    device->resume();
    settle();
    EXPECT_EQ(program.write("ACH 10"), 6u);
    settle();
    EXPECT_TRUE(device->awaits_attach());
    EXPECT_EQ(program.write("24\nx"), 4u);
    ASSERT_TRUE(until([&, up = c] { return up->unread == "x"; }));
}

TEST_P(VsockCarry, OnlyOneMayAttachAndOnlyOnce) {
    auto [before, c] = used_connection();
    carry(c->ports);
    device->resume();
    HostProgram wrong = dial("ATTACH 1025\n");
    ASSERT_TRUE(until([&] { return wrong.read(), wrong.ended; }))
        << "another port than the carried";
    HostProgram program = dial("ATTACH 1024\nx");
    ASSERT_TRUE(until([&, up = c] { return up->unread == "x"; }));
    HostProgram second = dial("ATTACH 1024\ny");
    ASSERT_TRUE(until([&] { return second.read(), second.ended; }));
    EXPECT_EQ(c->unread, "x");
    EXPECT_EQ(device->vsock_counters().refused, 2u);
    program.fd.reset();
    ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
    HostProgram late = dial("ATTACH 1024\nz");
    ASSERT_TRUE(until([&] { return late.read(), late.ended; }));
    // Others come as ever.
    auto [fresh, c2] = host_connection(1024);
    EXPECT_EQ(fresh.write("w"), 1u);
    ASSERT_TRUE(until([&, up = c2] { return up->unread == "w"; }));
}

TEST_P(VsockCarry, NobodyAttachesWhereNothingIsCarried) {
    HostProgram program = dial("ATTACH 1024\nx");
    ASSERT_TRUE(until([&] { return program.read(), program.ended; }));
    auto [other, c] = used_connection();
    pause();
    auto state = device->save();
    ASSERT_TRUE(state.has_value());
    EXPECT_FALSE(state->carried);
    move_on(*state);
    HostProgram early = dial("ATTACH 1024\nx");
    device->resume();
    ASSERT_TRUE(until([&] { return early.read(), early.ended; }));
    ASSERT_TRUE(until([&] { return guest->transport_resets == 1; }));
    EXPECT_TRUE(c->unread.empty());
}

TEST_P(VsockCarry, AllOthersAreResetWithoutTheEvent) {
    auto [before, c] = used_connection();
    auto [other, c2] = used_connection(52);
    auto [same_port, c3] = used_connection(1024);
    auto [incoming, c4] = guest_connection();
    carry(c->ports);
    VsockState again = *device->save();
    EXPECT_EQ(again.ended.size(), 3u);
    guest->refilling = true;
    guest->refill();
    device->resume();
    ASSERT_TRUE(
        until([&, a = c2, b = c3, d = c4] { return a->finished && b->finished && d->finished; }));
    EXPECT_TRUE(c2->reset && c3->reset && c4->reset);
    EXPECT_EQ(device->vsock_counters().resets_sent, 3u);
    EXPECT_EQ(guest->transport_resets, 0u) << "it would end the carried one too";
    HostProgram program = dial("ATTACH 1024\nx");
    ASSERT_TRUE(until([&, up = c] { return up->unread == "x"; }));
    auto [fresh, c5] = host_connection(52);
    EXPECT_GT(c5->ports.host, c3->ports.host) << "no port comes again";
}

TEST_P(VsockCarry, ResetsThatWaitForBuffersAreKept) {
    auto [before, c] = used_connection();
    auto [busy, c2] = used_connection(52);
    guest->refilling = false;
    std::string piece(100'000, 'p');
    for (HostProgram* program : {&before, &busy})
        for (int count = 0; count < 2; count++, settle())
            program->write(piece);
    GuestConnection& wanted = guest->connect(99, 1234);
    settle();
    EXPECT_FALSE(wanted.finished);
    EXPECT_EQ(device->vsock_counters().resets_sent, 0u);
    carry(c->ports);
    EXPECT_EQ(device->save()->ended, (std::vector<VsockPorts>{{99, 1234}, c2->ports}));
    guest->refilling = true;
    guest->refill();
    device->resume();
    ASSERT_TRUE(until([&, other = c2] { return wanted.reset && other->reset; }));
}

TEST_P(VsockCarry, DataOfTheGuestWaitsForTheHost) {
    auto [before, c] = used_connection();
    carry(c->ports);
    device->resume();
    EXPECT_EQ(guest->send(*c, "early"), 5u);
    settle();
    EXPECT_EQ(device->buffered_bytes(), 5u);
    // All that it has credit for, and not a byte more.
    while (guest->send(*c, std::string(60'000, 'e')) > 0)
        guest->step();
    EXPECT_LE(device->buffered_bytes(), limits::kVsockBufferBytes);
    size_t waiting = device->buffered_bytes();
    HostProgram program = dial("ATTACH 1024\n");
    std::string got;
    ASSERT_TRUE(until([&] { return (got += program.read()).size() == waiting; }));
    EXPECT_TRUE(got.starts_with("earlyeee"));
    exchange(program, *c);
}

TEST_P(VsockCarry, AGuestThatOverrunsItsCreditBeforeTheHostComesIsReset) {
    auto [before, c] = used_connection();
    carry(c->ports);
    device->resume();
    std::string piece(60'000, 'e');
    for (int count = 0; count < 8; count++) {
        (void)guest->send_raw(guest->header(*c, VIRTIO_VSOCK_OP_RW, 60'000), piece);
        guest->step();
    }
    ASSERT_TRUE(until([&, up = c] { return up->reset; }));
    EXPECT_GE(device->vsock_counters().credit_violations, 1u);
    EXPECT_EQ(device->buffered_bytes(), 0u);
    EXPECT_FALSE(device->awaits_attach());
}

TEST_P(VsockCarry, AGuestThatClosesItsEndLeavesNothingToAttachTo) {
    for (int how = 0; how < 3; how++) {
        auto [before, c] = used_connection();
        carry(c->ports);
        device->resume();
        if (how == 0)
            guest->close(*c);
        else if (how == 1)
            guest->shutdown(*c, VIRTIO_VSOCK_SHUTDOWN_SEND);
        else
            EXPECT_TRUE(guest->control(*c, VIRTIO_VSOCK_OP_RST));
        // RST answers a shutdown, and not an RST.
        ASSERT_TRUE(until(
            [&, up = c] { return device->connection_count() == 0 && up->reset == (how != 2); }));
        EXPECT_FALSE(device->awaits_attach());
        HostProgram program = dial("ATTACH 1024\n");
        ASSERT_TRUE(until([&] { return program.read(), program.ended; }));
    }
}

TEST_P(VsockCarry, ADriverThatStartsAnewHasNone) {
    auto [before, c] = used_connection();
    carry(c->ports);
    device->resume();
    stop();
    EXPECT_FALSE(device->awaits_attach());
    EXPECT_EQ(device->connection_count(), 0u);
}

TEST_P(VsockCarry, ACreditRequestIsAnsweredWhenNobodyHasAttached) {
    auto [before, c] = used_connection();
    carry(c->ports);
    guest->recording = true;
    device->resume();
    EXPECT_TRUE(guest->control(*c, VIRTIO_VSOCK_OP_CREDIT_REQUEST));
    ASSERT_TRUE(until([&] { return !guest->packets.empty(); }));
    EXPECT_EQ(guest->packets[0].op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    EXPECT_EQ(guest->packets[0].fwd_cnt, c->sent) << "all that was forwarded before the snapshot";
    EXPECT_TRUE(device->awaits_attach());
}

TEST_P(VsockCarry, IsCarriedOnWhenNobodyAttached) {
    auto [before, c] = used_connection();
    carry(c->ports);
    VsockState once = *device->save();
    ASSERT_TRUE(once.carried);
    EXPECT_EQ(*device->save(c->ports), once);
    move_on(once);
    EXPECT_EQ(*device->save(), once);
    device->resume();
    HostProgram program = dial("ATTACH 1024\nx");
    ASSERT_TRUE(until([&, up = c] { return up->unread == "x"; }));
    pause();
    EXPECT_FALSE(device->save()->carried) << "it has a host end now: it is carried if that asks";
    EXPECT_TRUE(device->save(c->ports)->carried);
}

TEST_P(VsockCarry, OnlyAWholeConnectionOfTheHostsIsCarried) {
    auto refusal = [&](VsockPorts ports) {
        pause();
        auto state = device->save(ports);
        device->resume();
        EXPECT_FALSE(state.has_value());
        return state ? Code::internal : state.error().code;
    };
    auto [program, c] = used_connection();
    VsockPorts ports = c->ports;
    EXPECT_EQ(refusal({ports.host, 1025}), Code::not_found);
    EXPECT_EQ(refusal({0, 0}), Code::not_found);
    auto [incoming, c2] = guest_connection();
    EXPECT_EQ(refusal(c2->ports), Code::not_found) << "the guest's own";
    // Bytes that the host program has not taken.
    std::string piece(60'000, 'e');
    for (int count = 0; count < 10 && device->buffered_bytes() == 0; count++) {
        guest->send(*c, piece);
        guest->step();
    }
    EXPECT_EQ(refusal(ports), Code::unavailable);
    ASSERT_TRUE(until([&, host = &program] {
        host->read();
        return device->buffered_bytes() == 0;
    }));
    pause();
    EXPECT_TRUE(device->save(ports).has_value());
    device->resume();
    program.shut_write();
    ASSERT_TRUE(until([&, up = c] { return up->host_shut != 0; }));
    EXPECT_EQ(refusal(ports), Code::unavailable) << "half closed";
}

TEST_P(VsockCarry, StatesThatMakeNoSenseAreCorrupt) {
    auto [program, c] = used_connection();
    auto [other, c2] = used_connection(52);
    auto [up, c3] = guest_connection();
    pause();
    const VsockState good = *device->save(c->ports);
    ASSERT_EQ(good.ended.size(), 2u);
    stop();
    device.reset();
    make_device();
    VsockState empty = *device->save();
    auto refused = [&](auto change) {
        VsockState state = good;
        change(state);
        Status status = device->restore(state);
        return !status && status.error().code == Code::corrupt && *device->save() == empty;
    };
    EXPECT_TRUE(refused([](VsockState& s) { s.guest_cid = ContextId{2}; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.guest_cid = ContextId{1ull << 32}; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.next_host_port = 0; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.next_host_port = 1u << 31; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.carried->ports.host = 80; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.carried->ports.guest = 0xffff'ffff; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.carried->credit.announced = false; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.carried->credit.received++; }));
    EXPECT_TRUE(refused([](VsockState& s) {
        s.carried->credit.published = s.carried->credit.received - limits::kVsockBufferBytes - 1;
    }));
    EXPECT_TRUE(refused(
        [](VsockState& s) { s.carried->credit.published = s.carried->credit.forwarded + 1; }));
    EXPECT_TRUE(refused([](VsockState& s) { s.ended.resize(limits::kVsockEndedMax + 1); }));
    EXPECT_TRUE(refused([](VsockState& s) { s.ended[1] = s.ended[0]; }));
    EXPECT_TRUE(refused([](VsockState& s) { std::swap(s.ended[0], s.ended[1]); }));
    EXPECT_TRUE(refused([](VsockState& s) { s.ended[1] = s.carried->ports; }));
    EXPECT_TRUE(device->restore(good).has_value());
}

TEST_P(VsockCarry, CountersOfTheGuestsThatLieOnlyStopItsOwnData) {
    auto [before, c] = used_connection();
    pause();
    VsockState state = *device->save(c->ports);
    state.carried->credit.guest_forwarded =
        state.carried->credit.sent + 5;  // read more than it got
    move_on(state);
    device->resume();
    HostProgram program = dial("ATTACH 1024\nx");
    settle();
    // The true numbers come with its answer to the credit request.
    ASSERT_TRUE(until([&, up = c] { return up->unread == "x"; }));
}

}  // namespace
}  // namespace spore
