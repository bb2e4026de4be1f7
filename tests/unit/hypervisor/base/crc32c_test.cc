#include "hypervisor/base/crc32c.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace spore {
namespace {

TEST(Crc32c, AgreesWithThePublishedVectors) {
    // RFC 3720 §B.4
    EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0})), 0x8a9136aau);
    EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0xff})), 0x62a8ab43u);
    EXPECT_EQ(crc32c(std::as_bytes(std::span(std::string_view("123456789")))), 0xe3069283u);
    EXPECT_EQ(crc32c({}), 0u);
}

TEST(Crc32c, ContinuesWhereItStopped) {
    auto bytes = std::as_bytes(std::span(std::string_view("a longer text, cut anywhere")));
    for (size_t cut = 0; cut <= bytes.size(); cut++)
        EXPECT_EQ(crc32c(bytes.subspan(cut), crc32c(bytes.first(cut))), crc32c(bytes));
}

}  // namespace
}  // namespace spore
