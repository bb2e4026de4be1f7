#include "agent/users.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "agent/file.h"
#include "agent/init.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

using testing::ElementsAre;

class Users : public testing::Test {
  protected:
    void SetUp() override {
        std::filesystem::create_directory(root + "/etc");
        std::ofstream(root + "/etc/passwd") << "root:x:0:0::/root:/bin/bash\n"
                                               "broken line\n"
                                               "odd:x:zero:0::/:\n"
                                               "ada:x:1000:1001:Ada,,,:/home/ada:/bin/sh\n"
                                               "last:x:7:7::/:/bin/false";
        std::ofstream(root + "/etc/group") << "root:x:0:\nada:x:1001:\naudio:x:29:bob,ada\n"
                                              "ad:x:30:ad\n";
    }
    const ScratchDirectory scratch{"users"};
    const std::string root = scratch.path();
};

TEST_F(Users, FindsByNameAndByUid) {
    for (const char* spec : {"ada", "1000"}) {
        const auto ada = find_user(spec, root);
        ASSERT_TRUE(ada) << spec;
        EXPECT_EQ(ada->name, "ada");
        EXPECT_EQ(ada->uid, 1000u);
        EXPECT_EQ(ada->gid, 1001u);
        EXPECT_EQ(ada->home, "/home/ada");
        EXPECT_EQ(ada->shell, "/bin/sh");
        EXPECT_THAT(ada->groups, ElementsAre(29u));
    }
    EXPECT_EQ(find_user("last", root)->uid, 7u);
}

TEST_F(Users, TakesAnotherGroup) {
    EXPECT_EQ(find_user("ada:audio", root)->gid, 29u);
    EXPECT_EQ(find_user("ada:4711", root)->gid, 4711u);
    EXPECT_EQ(find_user("ada:none", root).error().code, Code::not_found);
}

TEST_F(Users, TakesAUidWithoutAnEntry) {
    const auto user = find_user("4711", root);
    ASSERT_TRUE(user);
    EXPECT_EQ(user->uid, 4711u);
    EXPECT_EQ(user->gid, 4711u);
    EXPECT_EQ(user->home, "/");
}

TEST_F(Users, RefusesWhatIsNobody) {
    for (const char* spec : {"", "nobody", "odd", "-1", "4294967295", "99999999999", "12x", ":ada"})
        EXPECT_FALSE(find_user(spec, root)) << spec;
    EXPECT_TRUE(find_user("0", "/no/such/root")) << "an image without /etc/passwd has root";
}

TEST(BootOptions, AreReadFromTheCommandLine) {
    const BootOptions none = parse_boot_options("console=ttyS0 quiet\n");
    EXPECT_EQ(none.root, "");
    EXPECT_EQ(none.root_type, "ext4");
    EXPECT_FALSE(none.read_only);
    const BootOptions all = parse_boot_options(
        "quiet spore.root=vdb spore.rootflags=noatime,discard ro spore.rootfstype=erofs x=ro\n");
    EXPECT_EQ(all.root, "vdb");
    EXPECT_EQ(all.root_flags, "noatime,discard");
    EXPECT_EQ(all.root_type, "erofs");
    EXPECT_TRUE(all.read_only);
}

TEST(ReplaceFile, ReplacesInOneStepAndLeavesNothingBeside) {
    const ScratchDirectory scratch("file");
    const std::string folder = scratch.path();
    EXPECT_TRUE(replace_file(folder + "/a", "one"));
    EXPECT_TRUE(replace_file(folder + "/a", "two"));
    EXPECT_EQ(*read_file(folder + "/a"), "two");
    EXPECT_EQ(read_file(folder + "/a", 2).error().code, Code::resource_exhausted);
    EXPECT_EQ(replace_file(folder + "/none/a", "x").error().code, Code::not_found);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

}  // namespace
}  // namespace spore
