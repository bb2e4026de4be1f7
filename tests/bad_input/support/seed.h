#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

namespace spore::test {

// Another seed in every run, said in the test's output; SPORE_TEST_SEED gives one run again.
inline uint64_t test_seed() {
    const char* given = std::getenv("SPORE_TEST_SEED");
    uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::printf("SPORE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return seed;
}

}  // namespace spore::test
