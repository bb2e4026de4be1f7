#include "hypervisor/io/event_loop.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <thread>

namespace spore {
namespace {

using namespace std::chrono_literals;

class EventLoopTest : public testing::Test {
  protected:
    void TearDown() override { loop->drain(); }
    bool until(const std::function<bool()>& done) { return loop->run_until(done, 20s); }

    std::pair<RingFile, UniqueFd> socket_pair() {
        int ends[2] = {};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        return {std::move(*loop->add_file(UniqueFd(ends[0]))), UniqueFd(ends[1])};
    }

    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
};

TEST_F(EventLoopTest, ReadsAndWritesAFile) {
    auto file = std::move(*loop->add_file(UniqueFd(::memfd_create("test", MFD_CLOEXEC))));
    int32_t written = 0, got = 0, synced = 1;
    Operation write_op([&](int32_t result) { written = result; });
    Operation read_op([&](int32_t result) { got = result; });
    Operation sync_op([&](int32_t result) { synced = result; });
    std::array<char, 5> text = {'s', 'p', 'o', 'r', 'e'}, back = {};
    loop->write(write_op, file, std::as_bytes(std::span(text)), 100);
    ASSERT_TRUE(until([&] { return written == 5; }));
    loop->read(read_op, file, std::as_writable_bytes(std::span(back)), 100);
    loop->fdatasync(sync_op, file);
    ASSERT_TRUE(until([&] { return got == 5 && synced == 0; }));
    EXPECT_EQ(text, back);
}

TEST_F(EventLoopTest, ReceivesWhenThePeerSends) {
    auto [file, peer] = socket_pair();
    int32_t got = 0;
    std::array<std::byte, 16> buffer;
    Operation op([&](int32_t result) { got = result; });
    loop->recv(op, file, buffer);
    EXPECT_FALSE(loop->run_until([&] { return got != 0; }, 10ms));
    ASSERT_EQ(::write(peer.get(), "abc", 3), 3);
    ASSERT_TRUE(until([&] { return got == 3; }));
}

TEST_F(EventLoopTest, CancelEndsAWaitingOperation) {
    auto [file, peer] = socket_pair();
    int32_t got = 0;
    std::array<std::byte, 16> buffer;
    Operation op([&](int32_t result) { got = result; });
    loop->recv(op, file, buffer);
    loop->cancel(op);
    ASSERT_TRUE(until([&] { return got != 0; }));
    EXPECT_EQ(got, -ECANCELED);
    EXPECT_EQ(loop->in_flight(), 0u);
}

TEST_F(EventLoopTest, DrainEndsEverything) {
    auto [file, peer] = socket_pair();
    int ended = 0;
    std::array<std::byte, 16> buffer;
    Operation recv_op([&](int32_t) { ended++; }), timer([&](int32_t) { ended++; });
    loop->recv(recv_op, file, buffer);
    loop->timeout(timer, 3600s);
    loop->drain();
    EXPECT_EQ(ended, 2);
    EXPECT_EQ(loop->in_flight(), 0u);
}

TEST_F(EventLoopTest, TimeoutCompletesWithEtime) {
    int32_t result = 0;
    Operation timer([&](int32_t r) { result = r; });
    loop->timeout(timer, 1ms);
    ASSERT_TRUE(until([&] { return result != 0; }));
    EXPECT_EQ(result, -ETIME);
}

TEST_F(EventLoopTest, ManyMoreRequestsThanEntries) {
    auto file = std::move(*loop->add_file(UniqueFd(::memfd_create("test", MFD_CLOEXEC))));
    int done = 0;
    std::byte byte{7};
    std::vector<std::unique_ptr<Operation>> ops;
    for (int count = 0; count < 5000; count++) {
        ops.push_back(std::make_unique<Operation>([&](int32_t result) { done += result; }));
        loop->write(*ops.back(), file, std::span(&byte, 1), static_cast<uint64_t>(count));
    }
    ASSERT_TRUE(until([&] { return done == 5000; }));
}

TEST_F(EventLoopTest, CallsFromOtherThreadsRunOnTheLoopThread) {
    auto loop_thread = std::this_thread::get_id();
    int right = 0;
    std::vector<std::thread> threads;
    for (int count = 0; count < 4; count++) {
        threads.emplace_back([&] {
            for (int round = 0; round < 500; round++)
                EXPECT_TRUE(
                    loop->call([&] { right += std::this_thread::get_id() == loop_thread; }));
        });
    }
    ASSERT_TRUE(until([&] { return right == 2000; }));
    for (auto& thread : threads)
        thread.join();
}

TEST_F(EventLoopTest, TasksWithoutEndDoNotKeepCompletionsAway) {
    auto [file, peer] = socket_pair();
    int32_t got = 0;
    std::array<std::byte, 16> buffer;
    Operation op([&](int32_t result) { got = result; });
    int tasks = 0;
    std::function<void()> again = [&, &other_end = peer] {
        if (++tasks == 10) {  // the ring is waiting by now
            EXPECT_EQ(::write(other_end.get(), "abc", 3), 3);
        }
        if (got == 0)
            loop->defer(again);
    };
    loop->recv(op, file, buffer);
    loop->defer(again);
    EXPECT_TRUE(until([&] { return got == 3; }));
}

TEST_F(EventLoopTest, StopEndsRunAndLaterCallsSaySo) {
    std::thread other([&] {
        EXPECT_TRUE(loop->call([] {}));
        loop->stop();
    });
    loop->run();
    other.join();
    std::thread late([&] { EXPECT_FALSE(loop->call([] { FAIL() << "ran after the stop"; })); });
    late.join();
}

TEST_F(EventLoopTest, TableOfFilesHasAnEnd) {
    EventLoop::Options options;
    options.files = 3;  // one is the wake-up's
    auto small = std::move(*EventLoop::create(options));
    auto one = small->add_file(UniqueFd(::memfd_create("a", MFD_CLOEXEC)));
    auto two = small->add_file(UniqueFd(::memfd_create("b", MFD_CLOEXEC)));
    auto three = small->add_file(UniqueFd(::memfd_create("c", MFD_CLOEXEC)));
    EXPECT_TRUE(one.has_value() && two.has_value());
    ASSERT_FALSE(three.has_value());
    EXPECT_EQ(three.error().code, Code::resource_exhausted);
    one->reset();
    EXPECT_TRUE(small->add_file(UniqueFd(::memfd_create("d", MFD_CLOEXEC))).has_value());
}

}  // namespace
}  // namespace spore
