#include "hypervisor/sandbox/handover.h"
#include "hypervisor/network/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "tests/unit/support/scratch_directory.h"
#include "tests/unit/support/small_disk.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;
using ::testing::HasSubstr;

class HandoverTest : public ::testing::Test {
  protected:
    Handover written(const Handover& handover) {
        stdfs::remove(directory_ / "handover");
        auto done = write_handover(directory_, handover);
        EXPECT_TRUE(done) << done.error().message;
        auto read = read_handover(directory_);
        EXPECT_TRUE(read) << read.error().message;
        return read ? *read : Handover();
    }

    const ScratchDirectory scratch_{"handover"};
    const stdfs::path& directory_ = scratch_.path();
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
    std::ofstream(directory_ / "handover") << "1 2 3\n\n";
    auto read = read_handover(directory_);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Code::corrupt);
}

// Cut anywhere it would say something else: another version, or that no gate is open.
TEST_F(HandoverTest, ThatIsCutIsRefusedWhereverThatIs) {
    for (const char* network : {"egress +192.0.2.0/24", ""}) {
        written({{4711, 123456789}, AgentCarried{3, "1.2.3", 77}, network});
        for (auto size = stdfs::file_size(directory_ / "handover"); size > 0; size--) {
            stdfs::resize_file(directory_ / "handover", size - 1);
            auto read = read_handover(directory_);
            ASSERT_FALSE(read) << size - 1 << " bytes, '" << network << "'";
            EXPECT_EQ(read.error().code, Code::corrupt);
            EXPECT_THAT(read.error().message, HasSubstr((directory_ / "handover").string()));
        }
    }
}

// What a keeper sees of a full disk: why, of which file; and all is as before.
class FullDisk : public HandoverTest {
  protected:
    void expect_refused(const stdfs::path& directory, const char* why) {
        auto before = names_in(directory);
        auto done = write_handover(directory, handover_);
        ASSERT_FALSE(done);
        EXPECT_THAT(done.error().message, HasSubstr((directory / "handover").string()));
        EXPECT_THAT(done.error().message, HasSubstr(why));
        EXPECT_EQ(names_in(directory), before);
        auto read = read_handover(directory);
        ASSERT_FALSE(read);
        EXPECT_EQ(read.error().code, Code::not_found) << read.error().message;
    }
    void expect_written(const stdfs::path& directory) {
        auto done = write_handover(directory, handover_);
        ASSERT_TRUE(done) << done.error().message;
        auto read = read_handover(directory);
        ASSERT_TRUE(read) << read.error().message;
        EXPECT_EQ(read->network, handover_.network);
    }
    static std::vector<std::string> names_in(const stdfs::path& directory) {
        std::vector<std::string> names;
        for (const auto& each : stdfs::directory_iterator(directory))
            names.push_back(each.path().filename());
        std::ranges::sort(names);
        return names;
    }

    const Handover handover_{{4711, 123456789}, AgentCarried{3, "1.2.3", 77}, "egress +a.example"};
};

TEST_F(FullDisk, TakesNoHandOverAndLeavesNoneBehind) {
    stdfs::path full = directory_ / "full";
    const SmallDisk disk(full, "64k");
    if (!disk)
        GTEST_SKIP() << "a tmpfs cannot be mounted here: " << std::strerror(errno);
    std::ofstream(full / "others") << std::string(64 << 10, 'x') << std::flush;
    EXPECT_EQ(stdfs::file_size(full / "others"), 64u << 10) << "it is not full";
    expect_refused(full, "No space left on device");
    EXPECT_EQ(stdfs::file_size(full / "others"), 64u << 10);
    stdfs::remove(full / "others");
    expect_written(full);
}

// Some of it can be written: to the first byte that cannot, wherever that is.
TEST_F(FullDisk, ThatHasRoomForHalfAHandOverTakesNone) {
    expect_written(directory_);
    const auto whole = stdfs::file_size(directory_ / "handover");
    stdfs::remove(directory_ / "handover");
    rlimit before = {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto signal_before = ::signal(SIGXFSZ, SIG_IGN);
    for (rlim_t room = 0; room < whole && !HasFailure(); room++) {
        const rlimit small = {room, before.rlim_max};
        ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
        expect_refused(directory_, "File too large");
        ::setrlimit(RLIMIT_FSIZE, &before);
        EXPECT_FALSE(HasFailure()) << "room for " << room << " bytes of " << whole;
    }
    ::signal(SIGXFSZ, signal_before);
    expect_written(directory_);
}

}  // namespace
}  // namespace spore
