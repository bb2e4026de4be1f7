// Token buckets by a clock of our own.
#include "devices/virtio/rate_limit.h"

#include <gtest/gtest.h>

#include <random>

namespace spore {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kSize = 4096;

class RateGateTest : public testing::Test {
  protected:
    // Lets all pass that may within `seconds`, each of the size that `next` says, in steps of the
    // waits that the gate asks for; returns bytes and requests.
    template <typename Next>
    std::pair<uint64_t, uint64_t> run(uint64_t seconds, Next next) {
        uint64_t end = now + seconds * kSecond, bytes = 0, operations = 0;
        for (uint64_t size = next(); now < end;) {
            uint64_t wait = gate.admit(size, 1, now);
            if (wait > 0) {
                now += wait;
                continue;
            }
            bytes += size;
            operations++;
            size = next();
        }
        return {bytes, operations};
    }
    static auto fixed(uint64_t size) {
        return [size] { return size; };
    }
    void expect_within(uint64_t got, double wanted) {
        EXPECT_GE(static_cast<double>(got), 0.95 * wanted);
        EXPECT_LE(static_cast<double>(got), 1.05 * wanted);
    }

    RateGate gate;
    uint64_t now = 77 * kSecond;
};

TEST_F(RateGateTest, LetsEverythingPassWithoutALimit) {
    EXPECT_FALSE(gate.limited());
    for (int count = 0; count < 1000; count++)
        EXPECT_EQ(gate.admit(~uint64_t{0} >> 12, 1, now), 0u);
    EXPECT_EQ(gate.throttled_ns(now), 0u);
}

TEST_F(RateGateTest, SetToUnlimitedHasNothingLeftOfItsLimits) {
    constexpr RateLimits kLimits = {.bytes = {1, kSize}, .operations = {1, 3}};
    gate.change(kLimits, now);
    EXPECT_EQ(gate.admit(1000 * kSize, 1, now), 0u) << "a debt of a thousand seconds";
    EXPECT_GT(gate.admit(1, 1, now), 0u);
    now += kSecond;
    gate.change({}, now);
    EXPECT_FALSE(gate.limited());
    EXPECT_EQ(gate.limits(), RateLimits());
    gate.charge(~uint64_t{0} >> 12, 1);
    EXPECT_EQ(gate.admit(~uint64_t{0} >> 12, 1, now), 0u);
    now += kSecond;
    EXPECT_EQ(gate.throttled_ns(now), kSecond) << "nothing has waited since";
    // Limited again it owes nothing.
    gate.change(kLimits, now);
    for (int count = 0; count < 3; count++)
        EXPECT_EQ(gate.admit(kSize / 4, 1, now), 0u) << count;
    EXPECT_GT(gate.admit(kSize / 4, 1, now), 0u);
}

TEST_F(RateGateTest, HoldsARateOfBytesWithinFivePercentOverTenSeconds) {
    for (uint64_t rate : {uint64_t{64} << 10, uint64_t{10} << 20, uint64_t{100} << 30}) {
        for (uint64_t size : {uint64_t{512}, kSize, uint64_t{128} << 10}) {
            if (rate / size > 1'000'000 || 10 * rate / size < 100)
                continue;  // a loop too many, or steps too large for 5%
            gate.change({}, now);
            gate.change({.bytes = {rate, 256 << 10}}, now);
            auto [bytes, operations] = run(10, fixed(size));
            expect_within(bytes - (256 << 10), 10.0 * static_cast<double>(rate));
        }
    }
}

TEST_F(RateGateTest, HoldsARateOfOperationsWithinFivePercentOverTenSeconds) {
    for (uint64_t rate : {10u, 999u, 50'000u}) {
        gate.change({}, now);
        gate.change({.operations = {rate, 5}}, now);
        expect_within(run(10, fixed(kSize)).second - 5, 10.0 * static_cast<double>(rate));
    }
}

TEST_F(RateGateTest, HoldsForSizesThatVaryAndTimersThatComeLate) {
    gate.change({.bytes = {20 << 20, 4 << 20}}, now);
    std::mt19937 random(5);
    uint64_t start = now, bytes = 0;
    while (now - start < 10 * kSecond) {
        uint64_t size = 512 * (1 + random() % 512);
        uint64_t wait = gate.admit(size, 1, now);
        if (wait == 0)
            bytes += size;
        else
            now += wait + random() % 20'000'000;  // as a host that is busy
    }
    expect_within(bytes - (4 << 20), 10.0 * (20 << 20));
}

TEST_F(RateGateTest, TheStricterOfTwoLimitsDecides) {
    gate.change({.bytes = {1 << 20, 64 << 10}, .operations = {100, 1}}, now);
    expect_within(run(10, fixed(512)).second, 1000);
    expect_within(run(10, fixed(64 << 10)).first, 10.0 * (1 << 20));
}

TEST_F(RateGateTest, LetsExactlyTheBurstPassAtOnceAndAgainAfterAPause) {
    gate.change({.bytes = {1 << 20, 10 * kSize}}, now);
    for (int round = 0; round < 3; round++) {
        for (int count = 0; count < 10; count++)
            EXPECT_EQ(gate.admit(kSize, 1, now), 0u) << count;
        uint64_t wait = gate.admit(kSize, 1, now);
        EXPECT_NEAR(static_cast<double>(wait), 1e9 * kSize / (1 << 20), 2);
        EXPECT_GT(gate.admit(kSize, 1, now + wait - 10), 0u);
        now += 3600 * kSecond;  // more than fills it: no more than a burst is kept
    }
}

TEST_F(RateGateTest, WhatIsLargerThanTheBurstPassesFromAFullBucketAndIsPaidFor) {
    gate.change({.bytes = {1 << 20, kSize}}, now);
    EXPECT_EQ(gate.admit(1 << 20, 1, now), 0u);
    uint64_t wait = gate.admit(1, 1, now);
    EXPECT_NEAR(static_cast<double>(wait), 1e9 * ((1 << 20) - kSize + 1) / (1 << 20), 1e4);
    now += wait;
    auto [bytes, operations] = run(10, fixed(64 << 10));
    expect_within(bytes, 10.0 * (1 << 20));
}

TEST_F(RateGateTest, ChangesLiveToStricterAndLooserAndNone) {
    gate.change({.operations = {1000, 100}}, now);
    (void)run(1, fixed(kSize));
    gate.change({.operations = {100, 10}}, now);
    expect_within(run(10, fixed(kSize)).second, 1000);
    gate.change({.operations = {5000, 10}}, now);
    expect_within(run(10, fixed(kSize)).second, 50'000);
    gate.change({}, now);
    for (int count = 0; count < 1000; count++)
        EXPECT_EQ(gate.admit(kSize, 1, now), 0u);
}

TEST_F(RateGateTest, AChangeGivesNoSecondBurst) {
    gate.change({.operations = {10, 50}}, now);
    for (int count = 0; count < 50; count++)
        EXPECT_EQ(gate.admit(0, 1, now), 0u);
    for (int count = 0; count < 100; count++)
        gate.change({.operations = {10, uint64_t(50 + count % 2)}}, now);
    EXPECT_GT(gate.admit(0, 1, now), 0u);
}

TEST_F(RateGateTest, CountsTheTimeInWhichSomethingWaits) {
    gate.change({.operations = {10, 1}}, now);
    EXPECT_EQ(gate.admit(0, 1, now), 0u);
    EXPECT_EQ(gate.throttled_ns(now + kSecond), 0u) << "nothing has asked";
    uint64_t wait = gate.admit(0, 1, now);
    EXPECT_EQ(wait, kSecond / 10);
    EXPECT_EQ(gate.throttled_ns(now + wait / 2), wait / 2);
    EXPECT_EQ(gate.admit(0, 1, now + wait), 0u);
    EXPECT_EQ(gate.throttled_ns(now + kSecond), wait);
}

TEST_F(RateGateTest, WhatIsChargedLaterIsWaitedForByTheNext) {
    gate.change({.bytes = {1 << 20, kSize}}, now);
    gate.charge(2 << 20, 0);
    EXPECT_NEAR(static_cast<double>(gate.admit(kSize, 1, now)), 2e9, 1e4);
}

}  // namespace
}  // namespace spore
