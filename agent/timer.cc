#include "agent/timer.h"

#include <algorithm>

namespace spore {

int Timers::wait_ms() const {
    if (due_.empty())
        return -1;
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(due_.begin()->first - Clock::now());
    constexpr int64_t kLongestMs = 3'600'000;  // epoll_wait takes an int
    return static_cast<int>(std::clamp<int64_t>(left.count(), 0, kLongestMs));
}

void Timers::expire() {
    const auto now = Clock::now();
    while (!due_.empty() && due_.begin()->first <= now) {
        Timer* timer = due_.begin()->second;
        timer->clear();
        timer->handler_();
    }
}

void Timer::set(Timers::Clock::time_point when) {
    clear();
    when_ = when;
    set_ = true;
    timers_.due_.emplace(when_, this);
}

void Timer::set_timeout_ms(uint64_t timeout_ms) {
    // It must not overflow the clock.
    constexpr uint64_t kTimeoutMsMax = 10ull * 365 * 24 * 3600 * 1000;
    if (timeout_ms == 0 || timeout_ms > kTimeoutMsMax)
        return clear();
    set(Timers::Clock::now() + std::chrono::milliseconds(timeout_ms));
}

void Timer::clear() {
    if (set_)
        timers_.due_.erase({when_, this});
    set_ = false;
}

}  // namespace spore
