#include "hypervisor/sandbox/handover.h"
#include "hypervisor/network/policy.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class HandoverTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = (stdfs::temp_directory_path() / "spore-handover-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        directory_ = pattern;
    }
    void TearDown() override { stdfs::remove_all(directory_); }
    Handover written(const Handover& handover) {
        stdfs::remove(directory_ / "handover");
        auto done = write_handover(directory_, handover);
        EXPECT_TRUE(done) << done.error().message;
        auto read = read_handover(directory_);
        EXPECT_TRUE(read) << read.error().message;
        return read ? *read : Handover();
    }

    stdfs::path directory_;
};

TEST_F(HandoverTest, IsReadAsItWasWritten) {
    Handover read = written({{4711, 123456789}, AgentCarried{3, "1.2.3", 77}, "egress +a.example"});
    EXPECT_EQ(read.process.pid, 4711);
    EXPECT_EQ(read.process.start_ticks, 123456789u);
    ASSERT_TRUE(read.agent);
    EXPECT_EQ(read.agent->protocol, 3);
    EXPECT_EQ(read.agent->version, "1.2.3");
    EXPECT_EQ(read.agent->last_stream, 77u);
    EXPECT_EQ(read.network, "egress +a.example");
}

TEST_F(HandoverTest, WithoutAgentAndNetworkSaysSo) {
    Handover read = written({{1, 2}, std::nullopt});
    EXPECT_FALSE(read.agent);
    EXPECT_EQ(read.network, "");
}

// Its gate is open: to read that it follows nothing would leave it so.
TEST_F(HandoverTest, OfANetworkTooLongToBeCarriedSaysThatItFollowsOtherWords) {
    EXPECT_EQ(written({{1, 2}, std::nullopt, std::string(2000, 'x')}).network, kTooLongToCarry);
    EXPECT_FALSE(parse_policy({.mode = kTooLongToCarry})) << "somebody's words";
    std::string fits(900, 'x');
    EXPECT_EQ(written({{1, 2}, std::nullopt, fits}).network, fits);
}

TEST_F(HandoverTest, OfAnothersWordsIsRefused) {
    std::ofstream(directory_ / "handover") << "1 2 3\n";
    auto read = read_handover(directory_);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Code::corrupt);
}

}  // namespace
}  // namespace spore
