#pragma once

// Token buckets in front of a device's queues. What may not pass yet stays in its queue, so there
// is one timer for a device however much waits, nothing of a limit in a snapshot, and nothing to
// drain: quiescing ends the timer and no more.

#include <algorithm>
#include <functional>

#include "hypervisor/base/clock.h"
#include "hypervisor/base/rate.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

// One bucket: full at first, filled at `rate`, never above its burst. What is larger than the burst
// passes from a full bucket and leaves a debt, so that the rate holds for it too.
class TokenBucket {
  public:
    TokenBucket() = default;
    TokenBucket(const Rate& rate, uint64_t now_ns)
        : rate_(rate), level_(static_cast<double>(rate.burst)), filled_ns_(now_ns) {}

    const Rate& rate() const { return rate_; }
    // Takes on another rate: what it holds stays, up to the new burst; a new bucket is full.
    void change(const Rate& rate, uint64_t now_ns);
    // For how long `count` may not pass yet; 0: it may now. For no rate at all: 0.
    uint64_t wait_ns(uint64_t count, uint64_t now_ns);
    void take(uint64_t count) { level_ -= rate_.limited() ? static_cast<double>(count) : 0; }

  private:
    Rate rate_;
    // In tokens. Its 53 bits are more than a burst and a nanosecond's share of it need together.
    double level_ = 0;
    uint64_t filled_ns_ = 0;
};

// Both buckets of one direction of a device. Time is the caller's.
class RateGate {
  public:
    bool limited() const { return limited_; }
    RateLimits limits() const { return {bytes_.rate(), operations_.rate()}; }
    void change(const RateLimits& limits, uint64_t now_ns);
    // Lets pass what there is room for, in both or in neither; else says for how long there is
    // none.
    uint64_t admit(uint64_t bytes, uint64_t operations, uint64_t now_ns);
    void charge(uint64_t bytes, uint64_t operations) {
        bytes_.take(bytes);
        operations_.take(operations);
    }
    // How long something has had to wait so far, all together.
    uint64_t throttled_ns(uint64_t now_ns) const {
        return throttled_ns_ + (refused_ns_ == 0 ? 0 : now_ns - refused_ns_);
    }
    // Nothing waits any more: the driver is gone.
    void forget(uint64_t now_ns);

  private:
    TokenBucket bytes_, operations_;
    bool limited_ = false;
    uint64_t throttled_ns_ = 0;
    uint64_t refused_ns_ = 0;  // when the first of what waits was refused; 0: nothing waits
};

// A gate with its timer. Loop thread only. Its owner is a device: `begin` and `again` bracket the
// timer as any request (VirtioDevice::begin_request); `again` looks at the queue once more.
class RateLimiter {
  public:
    using Callback = std::function<void()>;
    RateLimiter(EventLoop& loop, Callback begin, Callback again)
        : loop_(loop), begin_(std::move(begin)), again_(std::move(again)) {}

    // What an unlimited device pays is this comparison.
    bool limited() const { return gate_.limited(); }
    // Something waits for the timer: nothing behind it needs to be looked at.
    bool waiting() const { return timer_.in_flight(); }
    // Whether so much may pass now. If not, `again` is called when it may.
    bool admit(uint64_t bytes, uint64_t operations) {
        return !gate_.limited() || admit_limited(bytes, operations);
    }
    // What has passed already and was not known before: the next waits for it.
    void charge(uint64_t bytes, uint64_t operations) { gate_.charge(bytes, operations); }
    // At once for what waits, too.
    void change(const RateLimits& limits);
    // Ends the timer, for quiescing and reset; what waits asks again when the device goes on.
    void stop();

    RateLimits limits() const { return gate_.limits(); }
    uint64_t throttled_ns() const { return gate_.throttled_ns(monotonic_ns()); }

  private:
    bool admit_limited(uint64_t bytes, uint64_t operations);

    EventLoop& loop_;
    Callback begin_, again_;
    RateGate gate_;
    Operation timer_{[this](int32_t) { again_(); }};
};

}  // namespace spore
