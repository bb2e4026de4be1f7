#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <utility>

namespace spore {

class Timer;

// All that waits for a time, in one thread's loop.
class Timers {
  public:
    using Clock = std::chrono::steady_clock;

    // What is left until the first, for poll(2): -1 if there is none.
    int wait_ms() const;
    // Runs what is due.
    void expire();

  private:
    friend class Timer;
    std::set<std::pair<Clock::time_point, Timer*>> due_;
};

// Runs its handler once at a time that is set, unless it is cleared before or gone. The handler
// must not destroy its timer.
class Timer {
  public:
    Timer(Timers& timers, std::function<void()> handler)
        : timers_(timers), handler_(std::move(handler)) {}
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    ~Timer() { clear(); }

    void set(Timers::Clock::time_point when);
    // So long from now; 0, and what is beyond any uptime, is never.
    void set_timeout_ms(uint64_t timeout_ms);
    void clear();

  private:
    friend class Timers;

    Timers& timers_;
    std::function<void()> handler_;
    Timers::Clock::time_point when_;
    bool set_ = false;
};

}  // namespace spore
