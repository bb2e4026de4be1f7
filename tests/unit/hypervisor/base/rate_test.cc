#include "hypervisor/base/rate.h"

#include <gtest/gtest.h>

#include "hypervisor/base/quota_limits.h"

namespace spore {
namespace {

std::string why_not(std::string_view text) {
    auto limits = parse_rate_limits("io-max", text, "ops");
    EXPECT_FALSE(limits.has_value()) << text;
    return limits ? "" : limits.error().message;
}

TEST(RateLimits, ReadsBytesOperationsAndBursts) {
    auto limits = parse_rate_limits("io-max", "50M,ops=1000,burst=1M,ops-burst=7", "ops");
    ASSERT_TRUE(limits.has_value()) << limits.error().message;
    EXPECT_EQ(limits->bytes, (Rate{50 << 20, 1 << 20}));
    EXPECT_EQ(limits->operations, (Rate{1000, 7}));
    auto again = parse_rate_limits("io-max", rate_limits_text(*limits, "ops"), "ops");
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(*again, *limits);
}

TEST(RateLimits, ChoosesBurstsThatAreNotGiven) {
    auto fast = parse_rate_limits("net-max", "100M,packets=100000", "packets");
    ASSERT_TRUE(fast.has_value());
    EXPECT_EQ(fast->bytes.burst, (100u << 20) / limits::kBurstDivisor);
    EXPECT_EQ(fast->operations.burst, 10'000u);
    auto slow = parse_rate_limits("net-max", "64K,packets=10", "packets");
    ASSERT_TRUE(slow.has_value());
    EXPECT_EQ(slow->bytes.burst, limits::kBurstBytesLeast);
    EXPECT_EQ(slow->operations.burst, limits::kBurstOperationsLeast);
}

TEST(RateLimits, NoneIsNoLimit) {
    auto none = parse_rate_limits("io-max", "none", "ops");
    ASSERT_TRUE(none.has_value());
    EXPECT_FALSE(none->limited());
    EXPECT_EQ(rate_limits_text(*none, "ops"), "none");
}

TEST(RateLimits, RefusalsNameValueAndBound) {
    EXPECT_EQ(why_not("1K"), "io-max '1024': bytes a second must be from 65536 to 1099511627776");
    EXPECT_EQ(why_not("ops=9"), "io-max '9': ops a second must be from 10 to 1000000000");
    EXPECT_NE(why_not("2000T").find("1099511627776"), std::string::npos);
    EXPECT_NE(why_not("1M,burst=9999T").find("a burst of bytes must be from 1"), std::string::npos);
    EXPECT_NE(why_not("0").find("say none"), std::string::npos);
    EXPECT_NE(why_not("1M,ops=0").find("say none"), std::string::npos);
    EXPECT_NE(why_not("1M,burst=0").find("say none"), std::string::npos);
    EXPECT_NE(why_not("burst=1M").find("goes with"), std::string::npos);
    EXPECT_NE(why_not("1M,ops-burst=5").find("goes with"), std::string::npos);
    for (const char* text : {"", ",", "1M,", "x", "-1", "1M,packets=5", "ops=", "ops=1x",
                             "burst=", "1M,ops=99999999999999999999"})
        (void)why_not(text);
}

}  // namespace
}  // namespace spore
