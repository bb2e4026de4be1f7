// The vsock device through pause, reset, snapshot and its end; its arithmetic of credit.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <random>

#include "devices/virtio/vsock.h"
#include "tests/unit/support/vsock_world.h"

namespace spore {
namespace {

using namespace std::chrono_literals;
using test::add_to_checksum;
using test::GuestConnection;
using test::HostProgram;
using test::VsockGuest;

TEST(VsockCredit, RunsOnAcrossTheEndOf32Bits) {
    VsockCredit credit;
    credit.sent = 0xffff'fff0;
    credit.heard({.buf_alloc = 100, .fwd_cnt = 0xffff'ffe0});
    EXPECT_EQ(credit.room(), 84u);
    credit.sent += 84;
    EXPECT_EQ(credit.room(), 0u);
    credit.heard({.buf_alloc = 100, .fwd_cnt = 0x10});
    EXPECT_EQ(credit.room(), 48u);
    credit.received = credit.published = credit.forwarded = 0xffff'ff00;
    credit.announced = true;
    EXPECT_TRUE(credit.allows(limits::kVsockBufferBytes));
    EXPECT_FALSE(credit.allows(limits::kVsockBufferBytes + 1));
    credit.received += 200'000;
    EXPECT_TRUE(credit.allows(limits::kVsockBufferBytes - 200'000));
    EXPECT_FALSE(credit.allows(limits::kVsockBufferBytes - 199'999));
    credit.forwarded += 131'071;
    EXPECT_FALSE(credit.update_due());
    credit.forwarded += 1;
    EXPECT_TRUE(credit.update_due());
}

TEST(VsockCredit, AShrunkBufferLeavesNoRoom) {
    VsockCredit credit;
    credit.sent = 1000;
    credit.heard({.buf_alloc = 999, .fwd_cnt = 0});
    EXPECT_EQ(credit.room(), 0u);
    credit.heard({.buf_alloc = 5000, .fwd_cnt = 1001});
    EXPECT_EQ(credit.room(), 0u) << "it cannot have read more than it got";
}

class VsockLife : public test::VsockWorld {
  protected:
    VsockGuest::Options options() const { return {.event_index = GetParam()}; }
};

INSTANTIATE_TEST_SUITE_P(Rings, VsockLife, testing::Bool(),
                         [](const auto& p) { return p.param ? "EventIndex" : "Flags"; });

TEST_P(VsockLife, PausesInMidstreamLoseNothing) {
    make(options());
    auto [down, c1] = host_connection();
    auto [up, c2] = guest_connection();
    c1->greedy = true;
    std::string data(8 << 20, 0);
    std::minstd_rand random(1);
    for (char& byte : data)
        byte = static_cast<char>(random() >> 7);
    size_t written = 0, sent = 0, got = 0;
    uint64_t checksum = 0;
    background = [&] {
        size_t w = down.write(std::string_view(data).substr(written, 50'000));
        written += w;
        size_t s = guest->send(*c2, std::string_view(data).substr(sent, 40'000));
        sent += s;
        std::string bytes = up.read(45'000);
        got += bytes.size();
        checksum = add_to_checksum(checksum, bytes);
        return w + s + bytes.size() > 0;
    };
    unsigned pauses = 0;
    for (size_t step = 0; got < data.size() || c1->total < data.size();) {
        step = std::min(step + 300'000, data.size());
        ASSERT_TRUE(until([&] { return got >= step && c1->total >= step; }));
        pause();
        EXPECT_EQ(loop->in_flight(), 0u);
        down.write("");
        if (pauses % 2 == 0)
            background();  // what comes from the host while the machine stands still
        device->resume();
        pauses++;
    }
    EXPECT_GT(pauses, 20u);
    EXPECT_EQ(checksum, add_to_checksum(0, data));
    EXPECT_EQ(c1->checksum, add_to_checksum(0, data));
}

TEST_P(VsockLife, HostConnectionsWorkAfterABarePauseAndResume) {
    make(options());
    pause();
    HostProgram program = dial("CONNECT 52\n");  // waits in the backlog
    guest->listening.insert(52);
    device->resume();
    std::string line;
    ASSERT_TRUE(until([&] { return (line += program.read()).ends_with("\n"); }));
    auto [other, c] = host_connection();
    EXPECT_EQ(other.write("x"), 1u);
    ASSERT_TRUE(until([&] { return c->unread == "x"; }));
}

TEST_P(VsockLife, APauseBetweenAnyTwoStepsOfAConnectionIsSurvived) {
    for (int pause_at = 0; pause_at < 12; pause_at++) {
        if (!guest)
            make(options());
        guest->listening.insert(52);
        guest->connections.clear();
        HostProgram program = dial("CONNECT 52\nhello");
        program.shut_write();
        std::string got;
        bool answered = false;
        for (int step = 0; step < 1000 && !program.ended; step++) {
            if (step == pause_at) {
                pause();
                device->resume();
            }
            int rounds = 0;
            loop->run_until([&] { return rounds++ == 1; }, 10ms);
            guest->step();
            GuestConnection* c = guest->only();
            if (!answered && c != nullptr && c->unread == "hello" && c->host_shut != 0) {
                guest->send(*c, "bye");
                guest->close(*c);
                answered = true;
            }
            got += program.read();
        }
        EXPECT_TRUE(program.ended && program.clean) << pause_at;
        EXPECT_TRUE(got.ends_with("bye")) << pause_at << ": " << got;
        ASSERT_TRUE(until([&] { return device->connection_count() == 0; }));
    }
}

TEST_P(VsockLife, AResetForgetsEverythingAndADriverMayStartAgain) {
    make(options());
    auto [program, c] = host_connection();
    HostProgram waiting = dial("CONN");
    settle();
    stop();
    EXPECT_EQ(device->connection_count(), 0u);
    EXPECT_EQ(loop->in_flight(), 0u);
    program.read();
    waiting.read();
    EXPECT_TRUE(program.ended && waiting.ended);
    make(options());
    auto [again, c2] = host_connection();
    EXPECT_EQ(again.write("x"), 1u);
    ASSERT_TRUE(until([&] { return c2->unread == "x"; }));
}

TEST_P(VsockLife, AnnouncedResetReachesTheGuestBeforeAnythingElse) {
    make(options());
    auto [program, c] = host_connection();
    guest->answers_events = false;
    device->announce_reset();
    ASSERT_TRUE(until([&] { return guest->transport_resets == 1; }));
    program.read();
    EXPECT_TRUE(program.ended);
    HostProgram early = dial("CONNECT 52\n");
    settle();
    EXPECT_EQ(guest->connections.size(), 1u) << "no request until the guest has handled the reset";
    // The guest gives its event buffer back.
    guest->add(2, {{guest->driver(2).allocate(16), sizeof(virtio_vsock_event), true}});
    std::string line;
    ASSERT_TRUE(until([&] { return (line += early.read()).starts_with("OK"); }));
}

TEST_P(VsockLife, AnnouncedResetWaitsForAnEventBuffer) {
    make({.event_index = GetParam(), .event_buffers = 0});
    device->announce_reset();
    settle();
    EXPECT_EQ(guest->transport_resets, 0u);
    pause();  // and it is not forgotten
    device->resume();
    guest->add(2, {{guest->driver(2).allocate(16), 3, true}});  // too small
    guest->add(2, {{guest->driver(2).allocate(16), sizeof(virtio_vsock_event), true}});
    ASSERT_TRUE(until([&] { return guest->transport_resets == 1; }));
    EXPECT_EQ(device->vsock_counters().bad_buffers, 1u);
    host_connection();
}

TEST_P(VsockLife, ARestoredMachineGoesOnWithAPacketInItsTxQueue) {
    make(options());
    auto [program, c] = host_connection();
    uint32_t old_port = c->ports.host;
    pause();
    // The guest's last words before the snapshot, which nobody has looked at.
    guest->send(*c, "lost");
    VsockState state = *device->save();
    EXPECT_FALSE(state.carried);
    EXPECT_EQ(state.ended, std::vector{c->ports});
    std::vector<QueueState> queues;
    for (Queue& queue : device->queues())
        queues.push_back(queue.state());
    uint64_t features = device->features();
    stop();
    device.reset();
    c->established = false;

    make_device();
    ASSERT_TRUE(device->restore(state).has_value());
    ASSERT_TRUE(device->restore(features, queues).has_value());
    EXPECT_EQ(*device->save(), state);
    guest->move_to(*device);
    device->announce_reset();
    ASSERT_TRUE(device->attach(UniqueFd(::dup(program.fd.get())), 1).has_value()) << "may wait";
    device->resume();
    ASSERT_TRUE(until([&] { return guest->transport_resets == 1; }));
    UniqueFd listener = listen(80);
    GuestConnection& up = guest->connect(80, 1234);
    ASSERT_TRUE(until([&] { return up.established; })) << "the tx queue is served and kicked";
    auto [fresh, c2] = host_connection();
    EXPECT_NE(c2->ports.host, old_port) << "the guest may still know the old one";
    EXPECT_GE(device->vsock_counters().resets_sent, 1u) << "for the words to the old connection";
}

TEST_P(VsockLife, TellsItsCid) {
    config.guest_cid = ContextId{0x1234'5678};
    make_device();
    uint64_t cid = 0;
    device->read_config(0, std::as_writable_bytes(std::span(&cid, 1)));
    EXPECT_EQ(cid, 0x1234'5678u);
    std::array<uint8_t, 4> tail = {9, 9, 9, 9};
    device->read_config(6, std::as_writable_bytes(std::span(tail)));
    EXPECT_EQ(tail, (std::array<uint8_t, 4>{}));
    device->read_config(0xffff'fff0, std::as_writable_bytes(std::span(tail)));
}

class VsockPath : public test::VsockWorld {
  protected:
    Code error_of(const std::string& path) {
        config.uds_path = path;
        auto made = VsockDevice::create(config, memory, *loop);
        EXPECT_FALSE(made.has_value());
        if (made)
            return Code::internal;
        message = made.error().message;
        return made.error().code;
    }
    std::string message;
};

TEST_F(VsockPath, IsLimitedTo107Bytes) {
    EXPECT_EQ(error_of(directory + "/" + std::string(107 - directory.size(), 'x')),
              Code::invalid_argument);
    EXPECT_NE(message.find("107"), std::string::npos) << message;
    EXPECT_EQ(error_of(""), Code::invalid_argument);
    config.uds_path = directory + "/" + std::string(106 - directory.size(), 'x');
    EXPECT_TRUE(VsockDevice::create(config, memory, *loop).has_value());
}

TEST_F(VsockPath, LeavesAloneWhatIsThere) {
    std::string file = directory + "/file";
    std::ofstream(file) << "precious";
    EXPECT_EQ(error_of(file), Code::already_exists);
    EXPECT_EQ(error_of(directory), Code::already_exists);
    std::string text;
    std::ifstream(file) >> text;
    EXPECT_EQ(text, "precious");
    EXPECT_EQ(error_of(directory + "/missing/v"), Code::not_found);
    make_device();
    EXPECT_EQ(error_of(directory + "/v"), Code::already_exists) << "a socket in use";
    EXPECT_TRUE(std::filesystem::exists(directory + "/v"));
}

TEST_F(VsockPath, ReplacesAStaleSocketAndRemovesItsOwn) {
    config.uds_path = directory + "/v";
    UniqueFd stale = unix_socket();
    auto a = address(config.uds_path);
    ASSERT_EQ(::bind(stale.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
    stale.reset();
    make_device();
    struct stat status = {};
    ASSERT_EQ(::stat(config.uds_path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    device.reset();
    EXPECT_FALSE(std::filesystem::exists(config.uds_path));
}

TEST_F(VsockPath, DoesNotRemoveWhatTookItsPlace) {
    make_device();
    std::filesystem::remove(config.uds_path);
    std::ofstream(config.uds_path) << "someone's";
    device.reset();
    EXPECT_TRUE(std::filesystem::exists(config.uds_path));
}

TEST_F(VsockPath, AListenerGivenNeedsNone) {
    config.uds_path = directory + "/v";
    UniqueFd given = unix_socket();
    auto a = address(config.uds_path);
    ASSERT_EQ(::bind(given.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
    ASSERT_EQ(::fcntl(given.get(), F_SETFL, 0), 0);  // blocking
    VsockConfig bare;
    auto made = VsockDevice::create(bare, std::move(given), memory, *loop);
    ASSERT_TRUE(made.has_value()) << made.error().message;
    device = std::move(*made);
    make();
    auto [program, c] = host_connection();
    EXPECT_EQ(program.write("x"), 1u);
    ASSERT_TRUE(until([&, up = c] { return up->unread == "x"; }));
    // There is nobody for the guest to call, though a path beside ours would lead to one.
    UniqueFd listener = listen(80);
    GuestConnection& up = guest->connect(80, 1234);
    ASSERT_TRUE(until([&] { return up.finished; }));
    EXPECT_TRUE(up.reset);
    EXPECT_EQ(device->vsock_counters().refused, 1u);
    stop();
    device.reset();
    EXPECT_TRUE(std::filesystem::exists(config.uds_path)) << "its maker's to remove";
}

TEST_F(VsockPath, AListenerGivenIsOne) {
    auto refused = [&](UniqueFd fd) {
        auto made = VsockDevice::create(config, std::move(fd), memory, *loop);
        return !made && made.error().code == Code::invalid_argument;
    };
    EXPECT_TRUE(refused(unix_socket())) << "not bound";
    EXPECT_TRUE(refused(UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))));
    EXPECT_TRUE(refused(UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))));
    EXPECT_FALSE(
        VsockDevice::create(config, UniqueFd(::open("/dev/null", O_RDONLY)), memory, *loop));
    EXPECT_FALSE(VsockDevice::create(config, UniqueFd(), memory, *loop));
}

TEST_F(VsockPath, RefusesReservedCids) {
    config.uds_path = directory + "/v";
    for (uint64_t cid : {0ull, 1ull, 2ull, 0xffff'ffffull, 0x1'0000'0003ull, ~0ull}) {
        config.guest_cid = ContextId{cid};
        auto made = VsockDevice::create(config, memory, *loop);
        ASSERT_FALSE(made.has_value());
        EXPECT_EQ(made.error().code, Code::invalid_argument);
    }
    EXPECT_FALSE(std::filesystem::exists(config.uds_path));
}

TEST_F(VsockPath, AttachNeedsADriverAndAStream) {
    make_device();
    EXPECT_EQ(device->attach(unix_socket(), 52).error().code, Code::unavailable);
    make();
    UniqueFd datagram(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(device->attach(std::move(datagram), 52).error().code, Code::invalid_argument);
    EXPECT_FALSE(device->attach(UniqueFd(), 52).has_value());
}

}  // namespace
}  // namespace spore
