// Reading and writing files through the agent.

#include "tests/unit/agent/files_rig.h"

namespace spore {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using How = FileWriteSpec::How;

class Files : public FilesRig {
  protected:
    // Sends the beginning of a FileWrite as a client that does not go on.
    void begin_write(RawClient& client, uint32_t stream, const std::string& path,
                     wire::WriteMode mode, const std::string& bytes) {
        auto& buffer = client.buffer();
        const auto name =
            buffer.CreateVector(reinterpret_cast<const uint8_t*>(path.data()), path.size());
        client.send(stream, wire::CreateFileWrite(buffer, name, mode));
        const auto* ready = client.next();
        ASSERT_NE(ready, nullptr);
        ASSERT_NE(ready->body_as_WriteReady(), nullptr);
        const auto data =
            buffer.CreateVector(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
        client.send(stream, wire::CreateFileData(buffer, data));
    }
};

TEST_F(Files, KeepAnyContentUnderAnyName) {
    const std::vector<std::string> strange = {
        "; rm -rf *", "$(reboot)", "a\nb", "'\"`\\", "\xff\xfe\x80",
        " ",          "-rf",       "*",    "..a",    std::string(255, 'n')};
    uint32_t seed = 0;
    for (const std::string& name : strange) {
        const std::string content = pattern(seed * 70'001, seed);
        const auto size = write({.path = at(name)}, content);
        ASSERT_TRUE(size) << size.error().message;
        EXPECT_EQ(*size, content.size());
        EXPECT_EQ(got(name), content);
        const auto back = read(at(name));
        ASSERT_TRUE(back) << back.error().message;
        EXPECT_TRUE(*back == content) << name;
        ++seed;
    }
    auto wanted = strange;
    std::ranges::sort(wanted);
    EXPECT_EQ(names(), wanted);
    const auto listed = list({.path = work});
    ASSERT_TRUE(listed) << listed.error().message;
    EXPECT_EQ(paths(*listed), wanted);
    for (const std::string& name : strange)
        EXPECT_TRUE(files->remove(at(name), false, soon()));
    EXPECT_THAT(names(), ElementsAre());
}

TEST_F(Files, ReadARange) {
    const std::string content = pattern(200'000, 7);
    put("file", content);
    EXPECT_EQ(*read(at("file"), 65'537, 100'000), content.substr(65'537, 100'000));
    EXPECT_EQ(*read(at("file"), 199'999), content.substr(199'999));
    EXPECT_EQ(*read(at("file"), 200'000), "");
    EXPECT_EQ(*read(at("file"), 1'000'000, 5), "");
    EXPECT_EQ(code(read(at("file"), UINT64_MAX)), Code::invalid_argument);
    // Files that say they are empty.
    EXPECT_THAT(*read("/proc/self/status"), HasSubstr("spore-agent"));
}

TEST_F(Files, ThatAreNoneAreRefused) {
    for (const std::string& path :
         {std::string(), std::string(5'000, 'x'), std::string("a\0b", 3)}) {
        EXPECT_EQ(code(read(path)), Code::invalid_argument);
        EXPECT_EQ(code(write({.path = path}, "x")), Code::invalid_argument);
        EXPECT_EQ(code(files->stat(path, true, soon())), Code::invalid_argument);
        EXPECT_EQ(code(list({.path = path})), Code::invalid_argument);
        EXPECT_EQ(code(files->remove(path, true, soon())), Code::invalid_argument);
        EXPECT_EQ(code(files->move(path, at("x"), true, soon())), Code::invalid_argument);
        EXPECT_EQ(code(files->move(at("x"), path, true, soon())), Code::invalid_argument);
        EXPECT_EQ(code(files->make_directory(path, 0, true, "", soon())), Code::invalid_argument);
        EXPECT_EQ(code(files->make_symlink(path, "x", true, soon())), Code::invalid_argument);
        EXPECT_EQ(code(files->make_symlink(at("x"), path, true, soon())), Code::invalid_argument);
        EXPECT_EQ(code(files->set_attributes({.path = path}, soon())), Code::invalid_argument);
        EXPECT_EQ(code(files->watch(path, true, soon())), Code::invalid_argument);
    }
    const auto too_long = read(std::string(5'000, 'x'));
    EXPECT_THAT(too_long.error().message, HasSubstr("5000 bytes: must be at most 4095"));
    // A path may be as long as Linux takes; this one has too long a name in it.
    EXPECT_EQ(code(read(std::string(4'000, 'x'))), Code::invalid_argument);
    EXPECT_EQ(code(read(at("none"))), Code::not_found);
    EXPECT_EQ(code(read(at("none/file"))), Code::not_found);
    EXPECT_EQ(code(read(work)), Code::invalid_argument);
    EXPECT_EQ(code(write({.path = work}, "x")), Code::invalid_argument);
    EXPECT_EQ(code(write({.path = work + "/"}, "x")), Code::invalid_argument);
    EXPECT_EQ(code(write({.path = "/"}, "x")), Code::invalid_argument);
    EXPECT_EQ(code(write({.path = at("none/file")}, "x")), Code::not_found);
    EXPECT_FALSE(*files->exists(at("none"), soon()));
    EXPECT_TRUE(*files->exists(work, soon()));
}

TEST_F(Files, OfOtherKindsAreNeitherWaitedForNorWritten) {
    ASSERT_EQ(::mkfifo(at("fifo").c_str(), 0600), 0);
    for (const std::string& path :
         {at("fifo"), std::string("/dev/zero"), std::string("/dev/tty")}) {
        EXPECT_EQ(code(read(path)), Code::invalid_argument) << path;
        for (const How how : {How::replace, How::append, How::in_place})
            EXPECT_EQ(code(write({.path = path, .how = how}, "x")), Code::invalid_argument) << path;
    }
    EXPECT_EQ(files->stat("/dev/zero", true, soon())->kind, FileKind::character_device);
    EXPECT_EQ(files->stat(at("fifo"), true, soon())->kind, FileKind::fifo);
}

TEST_F(Files, AreReplacedInOneStep) {
    put("file", "old");
    ::chmod(at("file").c_str(), 0751);
    const auto before = files->stat(at("file"), false, soon());
    std::string during;
    bool first = true;
    const auto written = files->write(
        {.path = at("file")},
        [&](std::span<std::byte> room) -> Result<size_t> {
            during += got("file") + "|";
            const size_t count = std::exchange(first, false) ? room.size() : 0;
            std::ranges::fill(room.first(count), std::byte{'n'});
            return count;
        },
        soon());
    ASSERT_TRUE(written) << written.error().message;
    EXPECT_EQ(during, "old|old|");
    EXPECT_EQ(got("file"), std::string(*written, 'n'));
    const auto after = files->stat(at("file"), false, soon());
    EXPECT_NE(after->inode, before->inode);
    EXPECT_EQ(after->mode, 0751u);
    EXPECT_EQ(write({.path = at("file"), .mode = 0600, .mtime_ns = 1'234'567'890'123'456'789}, "x"),
              1u);
    const auto last = files->stat(at("file"), false, soon());
    EXPECT_EQ(last->mode, 0600u);
    EXPECT_EQ(last->mtime_ns, 1'234'567'890'123'456'789);
    EXPECT_EQ(files->stat(at("new"), false, soon()).error().code, Code::not_found);
    EXPECT_TRUE(write({.path = at("new")}, ""));
    EXPECT_EQ(files->stat(at("new"), false, soon())->mode, 0644u);
    EXPECT_THAT(names(), ElementsAre("file", "new"));
}

TEST_F(Files, AreCreatedAppendedToAndWrittenInto) {
    EXPECT_TRUE(write({.path = at("file"), .how = How::create}, "one"));
    EXPECT_EQ(code(write({.path = at("file"), .how = How::create}, "two")), Code::already_exists);
    ASSERT_EQ(::symlink("nowhere", at("dangling").c_str()), 0);
    EXPECT_EQ(code(write({.path = at("dangling"), .how = How::create}, "x")), Code::already_exists);
    EXPECT_EQ(*write({.path = at("file"), .how = How::append}, " two"), 7u);
    EXPECT_EQ(*write({.path = at("log"), .how = How::append, .mode = 0600}, "a"), 1u);
    EXPECT_EQ(files->stat(at("log"), false, soon())->mode, 0600u);
    EXPECT_EQ(*write({.path = at("file"), .how = How::in_place, .offset = 1}, "NE"), 7u);
    EXPECT_EQ(got("file"), "oNE two");
    EXPECT_EQ(*write({.path = at("file"), .how = How::in_place, .offset = 9}, "!"), 10u);
    EXPECT_EQ(got("file"), std::string("oNE two\0\0!", 10));
    EXPECT_EQ(code(write({.path = at("no"), .how = How::in_place}, "x")), Code::not_found);
    EXPECT_EQ(code(write({.path = at("a/b/c")}, "x")), Code::not_found);
    EXPECT_TRUE(write({.path = at("a/b/c"), .parents = true, .sync = true}, "deep"));
    EXPECT_TRUE(write({.path = at("a/b/c"), .how = How::append, .sync = true}, "er"));
    EXPECT_EQ(got("a/b/c"), "deeper");
    EXPECT_EQ(code(write({.path = at("a/b/c/d"), .parents = true}, "x")), Code::not_found);
    EXPECT_EQ(code(write({.path = at("x"), .user = "nobody-has-this-name"}, "x")), Code::not_found);
    EXPECT_EQ(code(write({.path = at("x"), .mode = 0200000}, "x")), Code::invalid_argument);
    EXPECT_THAT(names(), ElementsAre("a", "dangling", "file", "log"));
}

TEST_F(Files, BehindSymbolicLinksAreWrittenAndTheLinksStay) {
    put("file", "old");
    ASSERT_EQ(::symlink("file", at("link").c_str()), 0);
    ASSERT_EQ(::symlink((work + "/link").c_str(), at("link2").c_str()), 0);
    EXPECT_TRUE(write({.path = at("link2")}, "new"));
    EXPECT_EQ(got("file"), "new");
    EXPECT_TRUE(fs::is_symlink(at("link")) && fs::is_symlink(at("link2")));
    ASSERT_EQ(::symlink("made", at("dangling").c_str()), 0);
    EXPECT_TRUE(write({.path = at("dangling")}, "made"));
    EXPECT_EQ(got("made"), "made");
    ASSERT_EQ(::symlink("loop2", at("loop").c_str()), 0);
    ASSERT_EQ(::symlink("loop", at("loop2").c_str()), 0);
    EXPECT_EQ(code(write({.path = at("loop")}, "x")), Code::invalid_argument);
    EXPECT_EQ(code(read(at("loop"))), Code::invalid_argument);
    EXPECT_EQ(*read(at("../work/link")), "new");
    EXPECT_EQ(files->stat(at("link"), false, soon())->target, "file");
    EXPECT_EQ(files->stat(at("link"), true, soon())->kind, FileKind::file);
    EXPECT_TRUE(*files->exists(at("loop"), soon()));
}

TEST_F(Files, ThatAreCancelledOrCutOffStayAsTheyWere) {
    put("file", "old");
    ::mkdir(at("empty").c_str(), 0700);
    const std::string half = pattern(100'000, 3);
    RawClient client(agent.connect_socket());
    client.greet();
    begin_write(client, 2, at("file"), wire::WriteMode::replace, half);
    begin_write(client, 3, at("empty/new"), wire::WriteMode::create, half);
    begin_write(client, 4, at("empty/other"), wire::WriteMode::replace, half);
    client.send(2, wire::CreateCancel(client.buffer()));
    const auto* frame = client.next();
    ASSERT_NE(frame, nullptr);
    ASSERT_NE(frame->body_as_Error(), nullptr);
    EXPECT_EQ(frame->body_as_Error()->code(), wire::ErrorCode::unavailable);
    // What comes late is passed over.
    client.send(2, wire::CreateFileData(client.buffer(), 0, true));
    const size_t before = agent_descriptors();
    {
        const RawClient gone = std::move(client);
    }
    const auto deadline = soon();
    while (agent_descriptors() > before - 3 && std::chrono::steady_clock::now() < deadline)
        ASSERT_TRUE(connection->ping(soon()));
    EXPECT_LE(agent_descriptors(), before - 3);
    EXPECT_EQ(got("file"), "old");
    EXPECT_THAT(names(), ElementsAre("empty", "file"));
    EXPECT_THAT(names("empty"), ElementsAre());
    // The same by a source that fails.
    int calls = 0;
    const auto failed = files->write(
        {.path = at("file")},
        [&](std::span<std::byte> room) -> Result<size_t> {
            if (++calls > 5)
                return fail(Code::permission_denied, "the source");
            return room.size();
        },
        soon());
    EXPECT_EQ(code(failed), Code::permission_denied);
    ASSERT_TRUE(connection->ping(soon()));
    EXPECT_EQ(got("file"), "old");
}

TEST_F(Files, OnAFullDiskStayAsTheyWere) {
    const SmallDisk disk(at("small"));
    if (!disk)
        GTEST_SKIP() << "a tmpfs cannot be mounted here: " << std::strerror(errno);
    const std::string kept = pattern(300'000, 1);
    ASSERT_TRUE(write({.path = at("small/kept")}, kept));
    const auto full = write({.path = at("small/kept")}, pattern(2'000'000, 2));
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code, Code::resource_exhausted) << full.error().message;
    EXPECT_THAT(full.error().message, HasSubstr("No space left"));
    EXPECT_EQ(code(write({.path = at("small/new")}, pattern(2'000'000, 2))),
              Code::resource_exhausted);
    ASSERT_TRUE(connection->ping(soon()));
    EXPECT_THAT(names("small"), ElementsAre("kept"));
    EXPECT_TRUE(got("small/kept") == kept);
    EXPECT_EQ(code(write({.path = at("small/kept"), .how = How::append}, pattern(2'000'000, 2))),
              Code::resource_exhausted);
    EXPECT_EQ(got("small/kept").substr(0, kept.size()), kept);
    // It is free again, and was not lost to a file without a name.
    EXPECT_TRUE(files->remove(at("small/kept"), false, soon()));
    EXPECT_TRUE(write({.path = at("small/kept")}, pattern(900'000, 2)));
}

TEST_F(Files, ThatAreReadSlowlyHoldUpNobody) {
    put("large", pattern(20'000'000, 5));
    const std::string path = at("large");
    AgentStream slow = connection->open(100'000);
    auto& buffer = slow.buffer();
    const auto bytes =
        buffer.CreateVector(reinterpret_cast<const uint8_t*>(path.data()), path.size());
    ASSERT_TRUE(slow.send(wire::CreateFileRead(buffer, bytes, 0, 0, 100'000)));
    for (int i = 0; i < 100; ++i)
        ASSERT_TRUE(files->stat(path, true, soon()));
    // Exactly what was granted has come.
    size_t received = 0;
    while (received < 100'000) {
        const auto frame = slow.receive(soon());
        ASSERT_TRUE(frame && *frame != nullptr);
        if (const auto* data = (*frame)->body_as_FileData())
            received += data->bytes()->size();
    }
    EXPECT_EQ(received, 100'000u);
    ASSERT_TRUE(connection->ping(soon()));
    EXPECT_EQ(*slow.next(), nullptr);
#ifndef SPORE_SANITIZED  // which keeps memory that was freed
    EXPECT_LE(agent.resident_kib(), 8u * 1024);
#endif
}

}  // namespace
}  // namespace spore
