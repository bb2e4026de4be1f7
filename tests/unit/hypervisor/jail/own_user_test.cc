// Ranges of users and claims to them, in a directory that is no host's.
#include "hypervisor/jail/own_user.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class OwnUserTest : public testing::Test {
  protected:
    OwnUserTest() {
        host.directory = directory / "claims";
        host.accounts = {put("passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n")};
        host.subordinates = {put("subuid", "ann:100000:65536\n")};
        host.map = put("uid_map", "         0          0 4294967295\n");
        host.wanted = "900000-900003";
    }
    std::string put(const char* name, const std::string& text) {
        std::ofstream(directory / name) << text;
        return directory / name;
    }
    Error refused(const std::string& wanted) {
        host.wanted = wanted;
        auto range = user_range(host);
        EXPECT_FALSE(range.has_value()) << wanted;
        return range ? Error{} : range.error();
    }

    const ScratchDirectory scratch{"users"};
    const stdfs::path& directory = scratch.path();
    UserHost host;
};

TEST_F(OwnUserTest, TakesTheRangeThatIsWanted) {
    auto range = user_range(host);
    ASSERT_TRUE(range.has_value()) << range.error().message;
    EXPECT_EQ(range->first, 900'000u);
    EXPECT_EQ(range->last, 900'003u);
    host.wanted = "";
    auto usual = user_range(host);
    ASSERT_TRUE(usual.has_value()) << usual.error().message;
    EXPECT_EQ(usual->first, UserRange{}.first);
}

TEST_F(OwnUserTest, RefusesWhatIsNoRange) {
    for (const char* text :
         {"x", "5-4", "0-100", "900-2000", "60000-70000", "1-", "-5", "900000-99999999999"})
        EXPECT_EQ(refused(text).code, Code::invalid_argument) << text;
    EXPECT_EQ(refused("none").code, Code::host_unsupported);
}

TEST_F(OwnUserTest, RefusesARangeWithAnothersUsers) {
    put("passwd", "root:x:0:0::/root:/bin/sh\nbob:x:900002:1::/:/bin/sh\n");
    Error error = refused("900000-900003");
    EXPECT_EQ(error.code, Code::invalid_argument);
    EXPECT_NE(error.message.find("gives 900002 to 'bob'"), std::string::npos) << error.message;
    error = refused("120000-130000");
    EXPECT_NE(error.message.find("100000 and more to 'ann'"), std::string::npos) << error.message;
    host.wanted = "165536-170000";
    EXPECT_TRUE(user_range(host).has_value()) << "right behind hers";
}

TEST_F(OwnUserTest, RefusesUsersThatThisNamespaceDoesNotHave) {
    put("uid_map", "0 100000 65536\n");
    EXPECT_EQ(refused("900000-900003").code, Code::host_unsupported);
}

TEST_F(OwnUserTest, GivesEachToOneUntilThereAreNoMore) {
    std::vector<OwnUser> claims;
    std::set<unsigned> numbers;
    for (int count = 0; count < 4; count++) {
        auto user = claim_user(host);
        ASSERT_TRUE(user.has_value()) << user.error().message;
        EXPECT_TRUE(numbers.insert(user->id).second) << user->id << " twice";
        claims.push_back(std::move(*user));
    }
    EXPECT_EQ(*numbers.begin(), 900'000u);
    EXPECT_EQ(*numbers.rbegin(), 900'003u);
    auto none = claim_user(host);
    ASSERT_FALSE(none.has_value());
    EXPECT_EQ(none.error().code, Code::resource_exhausted);
    unsigned freed = claims[2].id;
    claims.erase(claims.begin() + 2);
    auto again = claim_user(host);
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->id, freed);
}

TEST_F(OwnUserTest, AClaimEndsWithTheProcessThatHoldsIt) {
    host.wanted = "900000";
    auto user = claim_user(host);
    ASSERT_TRUE(user.has_value()) << user.error().message;
    pid_t holder = ::fork();
    if (holder == 0) {
        ::pause();
        ::_exit(0);
    }
    user->claim.reset();  // the one who made it goes on, or is killed
    EXPECT_FALSE(claim_user(host).has_value()) << "its holder lives";
    ASSERT_EQ(::kill(holder, SIGKILL), 0);
    ASSERT_EQ(::waitpid(holder, nullptr, 0), holder);
    EXPECT_TRUE(claim_user(host).has_value());
}

TEST_F(OwnUserTest, SweepsWhatIsNobodysAndNothingElse) {
    auto kept = claim_user(host);
    auto freed = claim_user(host);
    ASSERT_TRUE(kept.has_value() && freed.has_value());
    freed->claim.reset();
    EXPECT_EQ(sweep_users(host), 1u);
    EXPECT_TRUE(stdfs::exists(stdfs::path(host.directory) / std::to_string(kept->id)));
    EXPECT_FALSE(stdfs::exists(stdfs::path(host.directory) / std::to_string(freed->id)));
    kept->claim.reset();
    EXPECT_EQ(sweep_users(host), 1u);
    EXPECT_TRUE(stdfs::is_empty(host.directory));
}

TEST_F(OwnUserTest, IsNotTakenInAnothersDirectory) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root can give a directory away";
    stdfs::create_directory(host.directory);
    ASSERT_EQ(::chown(host.directory.c_str(), 1234, 1234), 0);
    auto user = claim_user(host);
    ASSERT_FALSE(user.has_value());
    EXPECT_EQ(user.error().code, Code::permission_denied);
}

TEST_F(OwnUserTest, AWorkersEndBeforeItAskedIsSeen) {
    auto mapper = make_user_mapper();
    ASSERT_TRUE(mapper.has_value()) << mapper.error().message;
    mapper->worker.reset();
    auto mapped = map_worker_user(mapper->keeper.get(), 900'000, 60'000);
    ASSERT_FALSE(mapped.has_value());
    EXPECT_EQ(mapped.error().code, Code::unavailable);
}

}  // namespace
}  // namespace spore
