#include "devices/virtio/rate_limit.h"

#include <cmath>

namespace spore {

namespace {

constexpr double kNsPerSecond = 1e9;
// No timer runs for longer: a rate may be changed to one of bytes a second and a request be large.
constexpr uint64_t kWaitNsMax = 3'600'000'000'000;

}  // namespace

void TokenBucket::change(const Rate& rate, uint64_t now_ns) {
    bool was_limited = rate_.limited();
    (void)wait_ns(0, now_ns);  // what has come in by the old rate
    rate_ = rate;
    filled_ns_ = now_ns;
    auto burst = static_cast<double>(rate.burst);
    level_ = was_limited ? std::min(level_, burst) : burst;
}

uint64_t TokenBucket::wait_ns(uint64_t count, uint64_t now_ns) {
    if (!rate_.limited())
        return 0;
    double per_ns = static_cast<double>(rate_.per_second) / kNsPerSecond;
    auto burst = static_cast<double>(rate_.burst);
    level_ = std::min(burst, level_ + static_cast<double>(now_ns - filled_ns_) * per_ns);
    filled_ns_ = now_ns;
    double missing = std::min(static_cast<double>(count), burst) - level_;
    if (missing <= 0)
        return 0;
    return static_cast<uint64_t>(
        std::clamp(std::ceil(missing / per_ns), 1.0, static_cast<double>(kWaitNsMax)));
}

void RateGate::change(const RateLimits& limits, uint64_t now_ns) {
    bytes_.change(limits.bytes, now_ns);
    operations_.change(limits.operations, now_ns);
    limited_ = limits.limited();
    if (limited_)
        return;
    forget(now_ns);
    bytes_ = operations_ = {};  // as if there never had been a limit
}

uint64_t RateGate::admit(uint64_t bytes, uint64_t operations, uint64_t now_ns) {
    uint64_t wait =
        std::max(bytes_.wait_ns(bytes, now_ns), operations_.wait_ns(operations, now_ns));
    if (wait > 0) {
        if (refused_ns_ == 0)
            refused_ns_ = now_ns;
        return wait;
    }
    charge(bytes, operations);
    forget(now_ns);
    return 0;
}

void RateGate::forget(uint64_t now_ns) {
    throttled_ns_ = throttled_ns(now_ns);
    refused_ns_ = 0;
}

void RateLimiter::change(const RateLimits& limits) {
    gate_.change(limits, monotonic_ns());
    if (timer_.in_flight())
        loop_.cancel(timer_);
}

void RateLimiter::stop() {
    gate_.forget(monotonic_ns());
    if (timer_.in_flight())
        loop_.cancel(timer_);
}

bool RateLimiter::admit_limited(uint64_t bytes, uint64_t operations) {
    uint64_t wait = gate_.admit(bytes, operations, monotonic_ns());
    if (wait == 0)
        return true;
    if (!timer_.in_flight()) {
        begin_();
        loop_.timeout(timer_, std::chrono::nanoseconds(wait));
    }
    return false;
}

}  // namespace spore
