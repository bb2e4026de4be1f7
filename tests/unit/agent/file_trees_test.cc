// Directories, links and attributes through the agent.

#include "hypervisor/base/agent_limits.h"
#include "tests/unit/agent/files_rig.h"

namespace spore {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class FileTrees : public FilesRig {
  protected:
    void fill(const std::string& directory, int count) {
        const UniqueFd in(::open(at(directory).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        for (int i = 0; i < count; ++i) {
            const UniqueFd made(::openat(in.get(), ("entry-" + std::to_string(i)).c_str(),
                                         O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
            ASSERT_TRUE(made);
        }
    }
    // Directories within each other, the last with a file in it.
    void nest(const std::string& name, int depth) {
        UniqueFd in(::open(work.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        std::string next = name;
        for (int i = 0; i < depth; ++i) {
            ASSERT_EQ(::mkdirat(in.get(), next.c_str(), 0700), 0);
            in = UniqueFd(::openat(in.get(), next.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
            next = "d";
        }
        const UniqueFd made(::openat(in.get(), "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        ASSERT_TRUE(made);
    }
    flatbuffers::Offset<flatbuffers::Vector<uint8_t>> bytes(RawClient& client,
                                                            const std::string& path) {
        return client.buffer().CreateVector(reinterpret_cast<const uint8_t*>(path.data()),
                                            path.size());
    }
};

TEST_F(FileTrees, AreListedWithoutFollowingLinks) {
    fs::create_directories(at("a/b"));
    put("a/file", "12345");
    put("a/.hidden", "");
    put("a/b/inner", "");
    ASSERT_EQ(::symlink("..", at("a/up").c_str()), 0);
    ASSERT_EQ(::symlink("/etc", at("a/b/etc").c_str()), 0);
    ASSERT_EQ(::symlink("a", at("link").c_str()), 0);
    ASSERT_EQ(::symlink("none", at("a/dangling").c_str()), 0);
    EXPECT_THAT(paths(*list({.path = at("a")})),
                ElementsAre(".hidden", "b", "dangling", "file", "up"));
    EXPECT_THAT(paths(*list({.path = at("a"), .hidden = false})),
                ElementsAre("b", "dangling", "file", "up"));
    const auto all = list({.path = at("link"), .recursive = true});
    ASSERT_TRUE(all) << all.error().message;
    EXPECT_THAT(paths(*all),
                ElementsAre(".hidden", "b", "b/etc", "b/inner", "dangling", "file", "up"));
    const auto in_order = [&](const std::string& path) {
        return std::ranges::find(*all, path, &FileInfo::path) - all->begin();
    };
    EXPECT_LT(in_order("b"), in_order("b/inner"));
    EXPECT_LT(in_order("b"), in_order("b/etc"));
    const FileInfo& file = (*all)[static_cast<size_t>(in_order("file"))];
    EXPECT_EQ(file.size, 5u);
    EXPECT_EQ(file.kind, FileKind::file);
    EXPECT_EQ((*all)[static_cast<size_t>(in_order("b/etc"))].target, "/etc");
    EXPECT_EQ(code(list({.path = at("a/file")})), Code::invalid_argument);
    EXPECT_EQ(code(list({.path = at("none")})), Code::not_found);
    EXPECT_EQ(code(list({.path = at("a/dangling")})), Code::not_found);
    std::vector<FileInfo> few;
    const auto cut = files->list(
        {.path = at("a"), .recursive = true, .entries_max = 3},
        [&](FileInfo&& info) -> Status {
            few.push_back(std::move(info));
            return {};
        },
        soon());
    EXPECT_TRUE(cut && *cut);
    EXPECT_EQ(few.size(), 3u);
    EXPECT_FALSE(*files->list(
        {.path = at("a"), .recursive = true, .entries_max = 7},
        [](FileInfo&&) -> Status { return {}; }, soon()));
}

TEST_F(FileTrees, OfAHundredThousandTakeNoMemory) {
    fs::create_directories(at("wide/sub"));
    fill("wide", 99'000);
    fill("wide/sub", 1'000);
    const size_t before = agent.resident_kib();
    const auto entries = list({.path = at("wide"), .recursive = true});
    ASSERT_TRUE(entries) << entries.error().message;
    auto found = paths(*entries);
    EXPECT_EQ(found.size(), 100'001u);
    EXPECT_EQ(std::ranges::unique(found).size(), 0u) << "none twice";
    // A client that does not take them, and others meanwhile.
    AgentStream slow = connection->open(1);
    auto& buffer = slow.buffer();
    const std::string path = at("wide");
    const auto name =
        buffer.CreateVector(reinterpret_cast<const uint8_t*>(path.data()), path.size());
    ASSERT_TRUE(slow.send(wire::CreateList(buffer, name, true, true, 0, 1)));
    ASSERT_TRUE(slow.receive(soon()));
    for (int i = 0; i < 10; ++i)
        ASSERT_TRUE(connection->ping(soon()));
    EXPECT_EQ(*slow.next(), nullptr) << "one frame overdraws what was granted";
    // The tree goes under its hands, while others are served.
    RawClient client(agent.connect_socket());
    client.greet();
    client.send(2, wire::CreateRemove(client.buffer(), bytes(client, at("wide")), true));
    for (uint32_t i = 3; i < 13; ++i) {
        client.send(i, wire::CreatePing(client.buffer()));
        const auto* frame = client.next();
        ASSERT_NE(frame, nullptr);
        EXPECT_EQ(frame->stream(), i) << "removing is not over before the tenth answer";
    }
    const auto* done = client.next();
    ASSERT_NE(done, nullptr);
    EXPECT_NE(done->body_as_Done(), nullptr);
    EXPECT_FALSE(fs::exists(at("wide")));
    ASSERT_TRUE(slow.consumed(1, 100'000'000));
    while (!slow.ended())
        ASSERT_TRUE(slow.receive(soon()));
#ifndef SPORE_SANITIZED
    EXPECT_LE(agent.resident_kib(), before + 1024);
#else
    (void)before;
#endif
}

TEST_F(FileTrees, DeeperThanAnyPathAreListedAndRemoved) {
    nest("deep", 3'000);
    const auto entries = list({.path = at("deep"), .recursive = true});
    ASSERT_TRUE(entries) << entries.error().message;
    // "d", "d/d", …: as many as have a path of at most 4,095 bytes.
    EXPECT_EQ(entries->size(), 2'048u);
    EXPECT_TRUE(*files->list(
        {.path = at("deep"), .recursive = true}, [](FileInfo&&) -> Status { return {}; }, soon()));
    EXPECT_LE(agent_descriptors(), 30u);
    const Status removed = files->remove(at("deep"), true, soon());
    EXPECT_TRUE(removed) << removed.error().message;
    EXPECT_THAT(names(), ElementsAre());
    nest("abyss", 5'000);
    EXPECT_EQ(code(files->remove(at("abyss"), true, soon())), Code::resource_exhausted);
    EXPECT_EQ(std::system(("rm -rf " + at("abyss")).c_str()), 0);
}

TEST_F(FileTrees, AreRemovedAndNothingBehindTheirLinks) {
    fs::create_directories(at("kept"));
    put("kept/file", "here");
    fs::create_directories(at("tree/a/b"));
    for (const char* name : {"tree/x", "tree/a/y", "tree/a/b/z"})
        put(name, "");
    ASSERT_EQ(::symlink("../kept", at("tree/link").c_str()), 0);
    ASSERT_EQ(::symlink((work + "/kept").c_str(), at("tree/a/link").c_str()), 0);
    EXPECT_EQ(code(files->remove(at("tree"), false, soon())), Code::invalid_argument);
    EXPECT_TRUE(fs::exists(at("tree/a/b/z")));
    ASSERT_EQ(::symlink("tree", at("alias").c_str()), 0);
    EXPECT_TRUE(files->remove(at("alias"), true, soon())) << "the link itself";
    EXPECT_TRUE(fs::exists(at("tree/a/b/z")));
    EXPECT_TRUE(files->remove(at("tree/"), true, soon()));
    EXPECT_THAT(names(), ElementsAre("kept"));
    EXPECT_EQ(got("kept/file"), "here");
    EXPECT_EQ(code(files->remove(at("tree"), true, soon())), Code::not_found);
    EXPECT_TRUE(files->remove(at("kept/file"), true, soon()));
    EXPECT_TRUE(files->remove(at("kept"), false, soon()));
    EXPECT_EQ(code(files->remove("/", true, soon())), Code::invalid_argument);
    EXPECT_EQ(code(files->remove(work + "/..", true, soon())), Code::invalid_argument);
}

TEST_F(FileTrees, AreMovedInOneStep) {
    put("a", "1");
    put("b", "2");
    EXPECT_EQ(code(files->move(at("a"), at("b"), false, soon())), Code::already_exists);
    EXPECT_TRUE(files->move(at("a"), at("b"), true, soon()));
    EXPECT_EQ(got("b"), "1");
    EXPECT_EQ(code(files->move(at("a"), at("c"), true, soon())), Code::not_found);
    fs::create_directories(at("d/e"));
    EXPECT_EQ(code(files->move(at("d"), at("d/e/f"), false, soon())), Code::invalid_argument);
    EXPECT_TRUE(files->move(at("d"), at("g"), false, soon()));
    EXPECT_TRUE(fs::exists(at("g/e")));
    const SmallDisk disk(at("small"));
    if (!disk)
        GTEST_SKIP() << "a tmpfs cannot be mounted here: " << std::strerror(errno);
    EXPECT_EQ(code(files->move(at("b"), at("small/b"), false, soon())), Code::host_unsupported);
    EXPECT_EQ(code(files->remove(at("small"), true, soon())), Code::unavailable) << "it is mounted";
}

TEST_F(FileTrees, AreMadeWithTheirParentsModesAndOwners) {
    EXPECT_TRUE(files->make_directory(at("one"), 0, false, "", soon()));
    EXPECT_EQ(files->stat(at("one"), false, soon())->mode, 0755u);
    EXPECT_TRUE(files->make_directory(at("two"), 01777, false, "", soon()));
    EXPECT_EQ(files->stat(at("two"), false, soon())->mode, 01777u);
    EXPECT_EQ(code(files->make_directory(at("one"), 0, false, "", soon())), Code::already_exists);
    EXPECT_TRUE(files->make_directory(at("one"), 0, true, "", soon()));
    EXPECT_EQ(code(files->make_directory(at("a/b/c"), 0, false, "", soon())), Code::not_found);
    EXPECT_TRUE(files->make_directory(at("a/b/c"), 0700, true, "", soon()));
    EXPECT_EQ(files->stat(at("a/b"), false, soon())->mode, 0755u);
    EXPECT_EQ(files->stat(at("a/b/c"), false, soon())->mode, 0700u);
    put("file", "");
    EXPECT_EQ(code(files->make_directory(at("file"), 0, true, "", soon())), Code::already_exists);
    EXPECT_EQ(code(files->make_directory(at("file/x"), 0, true, "", soon())), Code::not_found);
    if (::geteuid() != 0)
        GTEST_SKIP() << "not root: nobody else can own a file";
    EXPECT_TRUE(files->make_directory(at("own/er"), 0, true, "1234:5678", soon()));
    EXPECT_TRUE(write({.path = at("own/er/file"), .user = "1234"}, "x"));
    for (const char* name : {"own", "own/er", "own/er/file"})
        EXPECT_EQ(files->stat(at(name), false, soon())->uid, 1234u) << name;
    EXPECT_EQ(files->stat(at("own/er"), false, soon())->gid, 5678u);
    EXPECT_TRUE(write({.path = at("own/er/file")}, "new"));
    EXPECT_EQ(files->stat(at("own/er/file"), false, soon())->uid, 1234u) << "as it was";
}

TEST_F(FileTrees, HaveLinksAndAttributesSet) {
    EXPECT_TRUE(files->make_symlink(at("link"), "to\n/any \xff bytes", false, soon()));
    EXPECT_EQ(fs::read_symlink(at("link")), "to\n/any \xff bytes");
    EXPECT_EQ(code(files->make_symlink(at("link"), "b", false, soon())), Code::already_exists);
    EXPECT_TRUE(files->make_symlink(at("link"), "file", true, soon()));
    EXPECT_EQ(fs::read_symlink(at("link")), "file");
    put("file", "");
    EXPECT_EQ(code(files->make_symlink(at("file"), "b", true, soon())), Code::already_exists);
    EXPECT_TRUE(files->make_hard_link(at("name"), at("file"), false, soon()));
    EXPECT_TRUE(fs::equivalent(at("name"), at("file")));
    EXPECT_EQ(code(files->make_hard_link(at("link"), at("file"), false, soon())),
              Code::already_exists);
    EXPECT_EQ(code(files->make_hard_link(at("x"), at("link"), false, soon())),
              Code::invalid_argument);
    EXPECT_EQ(code(files->make_hard_link(at("x"), at("none"), false, soon())), Code::not_found);
    EXPECT_EQ(code(files->make_hard_link(work, at("file"), true, soon())), Code::already_exists);
    EXPECT_TRUE(files->make_hard_link(at("name"), at("file"), true, soon())) << "it is already";
    EXPECT_TRUE(files->remove(at("name"), false, soon()));
    const int64_t time = -1'500'000'000;  // before 1970, and no whole second
    EXPECT_TRUE(
        files->set_attributes({.path = at("link"), .mode = 0604, .mtime_ns = time}, soon()));
    auto info = files->stat(at("file"), false, soon());
    EXPECT_EQ(info->mode, 0604u);
    EXPECT_EQ(info->mtime_ns, time);
    EXPECT_TRUE(files->set_attributes({.path = at("link"), .link = true, .mtime_ns = 5}, soon()));
    EXPECT_EQ(files->stat(at("link"), false, soon())->mtime_ns, 5);
    EXPECT_EQ(files->stat(at("file"), false, soon())->mtime_ns, time);
    EXPECT_EQ(code(files->set_attributes({.path = at("link"), .link = true, .mode = 0600}, soon())),
              Code::invalid_argument);
    EXPECT_EQ(code(files->set_attributes({.path = at("file"), .mode = 010000}, soon())),
              Code::invalid_argument);
    EXPECT_EQ(code(files->set_attributes({.path = at("none"), .mode = 0600}, soon())),
              Code::not_found);
    EXPECT_THAT(names(), ElementsAre("file", "link"));
}

TEST_F(FileTrees, RequestsThatAreCutOffOrCancelledLeaveAnAgentThatServes) {
    fs::create_directories(at("tree"));
    fill("tree", 3'000);
    put("file", pattern(1'000'000, 1));
    {
        RawClient client(agent.connect_socket());
        client.greet();
        auto& buffer = client.buffer();
        client.send(2, wire::CreateList(buffer, bytes(client, at("tree")), true, true, 0, 1));
        client.send(3, wire::CreateFileRead(buffer, bytes(client, at("file")), 0, 0, 1000));
        client.send(4, wire::CreateFileWrite(buffer, bytes(client, at("new"))));
        client.send(5, wire::CreateWatch(buffer, bytes(client, at("tree")), true, 1000));
        client.send(6, wire::CreateCancel(buffer));  // of nothing
        for (const uint32_t stream : {2u, 3u, 4u, 5u})
            client.send(stream, wire::CreateCancel(buffer));
        std::map<uint32_t, std::string> ends;
        while (ends.size() < 4) {
            const auto* frame = client.next();
            ASSERT_NE(frame, nullptr);
            if (frame->body_as_Error() != nullptr || frame->body_as_Done() != nullptr)
                ends[frame->stream()] = wire::EnumNameBody(frame->body_type());
        }
        EXPECT_EQ(ends[2] + ends[3] + ends[4] + ends[5], "ErrorErrorErrorDone");
        client.send(12, wire::CreateList(buffer, bytes(client, at("tree")), true, true, 0, 1));
        client.send(13, wire::CreateFileRead(buffer, bytes(client, at("file")), 0, 0, 1000));
        client.send(14, wire::CreateFileWrite(buffer, bytes(client, at("new"))));
        client.send(15, wire::CreateWatch(buffer, bytes(client, at("tree")), true, 1000));
        client.send(16, wire::CreateRemove(buffer, bytes(client, at("tree")), true));
        // What is written under no credit ends the connection, in the midst of all that.
        const std::vector<uint8_t> much(limits::kFileCreditBytes + 1);
        const auto data = buffer.CreateVector(much);
        client.send(14, wire::CreateFileData(buffer, data));
        while (const auto* frame = client.next()) {
            if (frame->stream() == 0) {
                EXPECT_THAT(
                    frame->body_as_Error()->message()->str(),
                    HasSubstr("above the credit of " + std::to_string(limits::kFileCreditBytes)));
            }
        }
    }
    ASSERT_TRUE(connection->ping(soon()));
    EXPECT_FALSE(fs::exists(at("new")));
    EXPECT_TRUE(files->remove(at("tree"), true, soon()));
}

}  // namespace
}  // namespace spore
