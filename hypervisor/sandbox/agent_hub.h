#pragma once

// Inside AgentConnection: what its streams share, and how those who wait share one socket.

#include <condition_variable>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/agent_wire.h"

namespace spore {

// One stream, to the connection. All of it under Hub::mutex.
struct AgentStream::Slot {
    uint32_t id = 0;
    size_t window = 0;                          // granted of each flow
    std::deque<std::vector<std::byte>> frames;  // each with its length field, verified
    size_t queued = 0;                          // what they cost (cost_of)
    wire::Body request = wire::Body::NONE;
    bool ended = false;      // the last frame is in `frames` or has been taken
    bool cancelled = false;  // by the caller
};

// Leader and followers: of the threads that wait one, the leader, is in poll(2), for the socket and
// for all that the others wait for too; it delivers what comes, and hands over when it has its own.
struct AgentStream::Hub {
    // A thread that waits.
    struct Waiter {
        const Slot* slot;
        std::span<pollfd> others;
        uint64_t id;
        bool others_ready = false;
        std::condition_variable changed;
    };

    std::mutex mutex;
    UniqueFd socket;
    UniqueFd wake;  // eventfd: the leader is to look again
    FrameReader reader;
    // What the socket has not taken yet: the rest of a frame that stays its sender's, then `out`.
    std::span<const std::byte> lent;
    const Slot* lender = nullptr;
    std::vector<std::byte> out;
    size_t out_sent = 0;
    std::vector<std::vector<std::byte>> spares;  // see recycle
    std::unordered_map<uint32_t, std::shared_ptr<Slot>> slots;
    std::vector<Waiter*> waiters;
    uint64_t last_waiter = 0;
    uint32_t last_stream = 0;
    bool leading = false;  // somebody is in poll
    std::optional<Error> broken;
    AgentInfo info;

    size_t unsent() const { return lent.size() + out.size() - out_sent; }

    // All with the mutex held.
    void end(Error why);
    Status add(const Slot& slot, std::span<const std::byte> frame);
    // Without a copy: `frame` is to stay until `lender` is another, or it is taken back. Nothing
    // may be unsent.
    Status lend(const Slot& slot, std::span<const std::byte> frame);
    void take_back();
    void write();
    // A frame that its reader is done with: its memory serves another.
    void recycle(std::vector<std::byte>&& frame);
    // Those who wait for `slot` are to look at it; nullptr: all.
    void notify(const Slot* slot);

    // Waits until `ready()` holds or one of `others` is ready. Errors: timeout; the connection's.
    template <typename Ready>
    Status wait(std::unique_lock<std::mutex>& lock, const Slot& slot, Deadline deadline,
                std::span<pollfd> others, Ready ready);

  private:
    Status may_add(const Slot& slot, std::span<const std::byte> frame) const;
    // As much as the socket takes now.
    size_t send(std::span<const std::byte> bytes);
    void look_again();
    void lead(std::unique_lock<std::mutex>& lock, Deadline deadline);
    void read();
    void deliver(const wire::Frame& frame, std::span<const std::byte> bytes);
};

// What a frame costs of a stream's window (schema/agent.fbs): data its bytes, all else its length.
// An empty one costs something too, or there could be any number of them.
size_t cost_of(const wire::Frame& frame, std::span<const std::byte> bytes);

template <typename Ready>
Status AgentStream::Hub::wait(std::unique_lock<std::mutex>& lock, const Slot& slot,
                              Deadline deadline, std::span<pollfd> others, Ready ready) {
    if (ready())
        return {};
    constexpr std::chrono::hours kLongest{1};  // a far deadline must not overflow the clock
    Waiter self{.slot = &slot, .others = others, .id = ++last_waiter};
    waiters.push_back(&self);
    Status result;
    if (leading && !others.empty())
        look_again();
    while (!ready() && !self.others_ready) {
        const auto now = Deadline::clock::now();
        if (broken)
            result = std::unexpected(*broken);
        else if (deadline <= now)
            result = fail(Code::timeout, "agent: no answer within the time allowed");
        if (!result)
            break;
        if (leading)
            self.changed.wait_until(lock, std::min(deadline, now + kLongest));
        else
            lead(lock, deadline);
    }
    std::erase(waiters, &self);
    // Somebody else reads the socket now. One that is about to leave hands over in its turn.
    if (!leading && !waiters.empty())
        waiters.front()->changed.notify_all();
    return result;
}

}  // namespace spore
