#pragma once

// How fast something is that a device's limit holds back, in real time. A burst of half a second's
// worth makes up for a busy machine, as it does for a guest.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>

#include "devices/virtio/rate_limit.h"

namespace spore::test {

struct Paced {
    std::string name;
    Rate rate;
    RateLimiter& limiter;
    std::function<uint64_t()> passed;  // so far, in what the rate counts
    uint64_t most_at_once = 0;         // what may be on its way, in the same
};

// Runs `loop` with `pump` keeping all queues full: of what passes at first it wants the burst, then
// the rate within 5% over 10 s.
inline void expect_paces(EventLoop& loop, std::span<const Paced> all,
                         const std::function<void()>& pump) {
    using Clock = std::chrono::steady_clock;
    using Seconds = std::chrono::duration<double>;
    constexpr Seconds kSpan{10};
    constexpr double kWithin = 0.05;
    const auto begun = Clock::now();
    auto run_until = [&](const std::function<bool()>& done) {
        ASSERT_TRUE(loop.run_until(
            [&] {
                pump();
                return done();
            },
            std::chrono::seconds(60)));
    };
    ASSERT_NO_FATAL_FAILURE(run_until([&] {
        return std::ranges::all_of(all, [](const Paced& one) {
            return one.limiter.waiting() && one.passed() + one.most_at_once >= one.rate.burst;
        });
    }));
    std::vector<uint64_t> before;
    const auto start = Clock::now();
    for (const Paced& one : all) {
        before.push_back(one.passed());
        const double since =
            static_cast<double>(one.rate.per_second) * Seconds(start - begun).count();
        EXPECT_LE(static_cast<double>(before.back()),
                  static_cast<double>(one.rate.burst + one.most_at_once) + since)
            << one.name << ": the burst";
    }
    ASSERT_NO_FATAL_FAILURE(run_until([&] { return Clock::now() - start >= kSpan; }));
    const double seconds = Seconds(Clock::now() - start).count();
    for (size_t index = 0; index < all.size(); index++) {
        const Paced& one = all[index];
        const double found = static_cast<double>(one.passed() - before[index]) / seconds;
        const auto wanted = static_cast<double>(one.rate.per_second);
        std::printf("%s: %.0f a second, %.2f%% of its limit, over %.2f s\n", one.name.c_str(),
                    found, 100 * found / wanted, seconds);
        EXPECT_NEAR(found, wanted, kWithin * wanted) << one.name;
    }
}

}  // namespace spore::test
