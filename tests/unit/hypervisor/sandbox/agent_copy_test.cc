// Trees between this host and a guest: with the real agent, and with one that wants out.

#include "hypervisor/sandbox/agent_copy.h"

#include <sys/stat.h>
#include <sys/un.h>

#include <thread>

#include "tests/unit/agent/files_rig.h"

namespace spore {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Copy : public FilesRig {
  protected:
    Result<CopyCounts> in(const std::string& from, const std::string& to) {
        return copy_in(connection, at(from), at(to), {});
    }
    Result<CopyCounts> out(const std::string& from, const std::string& to) {
        return copy_out(connection, at(from), at(to), {});
    }
    // Every path below with its kind, mode, time and content.
    std::map<std::string, std::string> all_of(const std::string& name) const {
        std::map<std::string, std::string> all;
        const fs::path root = at(name);
        for (const auto& entry : fs::recursive_directory_iterator(root)) {
            struct stat about = {};
            ::lstat(entry.path().c_str(), &about);
            std::string& words = all[entry.path().lexically_relative(root)];
            words = std::to_string(about.st_mode);
            if (!S_ISLNK(about.st_mode))  // a link's time is not copied
                words += " " + std::to_string(about.st_mtim.tv_sec) + "." +
                         std::to_string(about.st_mtim.tv_nsec);
            if (entry.is_symlink())
                words += " " + fs::read_symlink(entry.path()).string();
            else if (entry.is_regular_file())
                words += " " + got(name + "/" + entry.path().lexically_relative(root).string());
        }
        return all;
    }
    void make_tree(const std::string& name) {
        fs::create_directories(at(name + "/a/b/empty"));
        put(name + "/large", pattern(3'000'000, 4));
        put(name + "/a/new\nline \xff", "x");
        put(name + "/a/b/.hidden", "");
        put(name + "/zeros", std::string(5'000'000, '\0') + "end");
        for (int i = 0; i < 200; ++i)
            put(name + "/a/" + std::to_string(i), pattern(static_cast<size_t>(i) * 7, 1));
        ASSERT_EQ(::symlink("../large", at(name + "/a/link").c_str()), 0);
        ASSERT_EQ(::symlink("/none", at(name + "/dangling").c_str()), 0);
        ASSERT_EQ(::mkfifo(at(name + "/fifo").c_str(), 0600), 0);
        ::chmod(at(name + "/a/1").c_str(), 0751);
        const timespec times[2] = {{0, UTIME_OMIT}, {1'000'000'000, 123'456'789}};
        ::utimensat(AT_FDCWD, at(name + "/a/2").c_str(), times, 0);
        ::utimensat(AT_FDCWD, at(name + "/a/b").c_str(), times, 0);
        ::chmod(at(name + "/a/b/empty").c_str(), 0500);
    }
};

TEST_F(Copy, TreeComesBackAsItWas) {
    make_tree("tree");
    const auto counts = in("tree", "guest");
    ASSERT_TRUE(counts) << counts.error().message;
    EXPECT_EQ(counts->files, 204u);
    EXPECT_EQ(counts->directories, 4u);
    EXPECT_EQ(counts->links, 2u);
    EXPECT_EQ(counts->skipped, 1u) << "the FIFO";
    const auto back = out("guest", "back");
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->files, 204u);
    EXPECT_EQ(back->bytes, counts->bytes);
    fs::remove(at("tree/fifo"));
    // The removal has changed its directory's time, which is not in the list.
    EXPECT_EQ(all_of("guest"), all_of("tree"));
    EXPECT_EQ(all_of("back"), all_of("tree"));
    struct stat about = {};
    ::stat(at("back/zeros").c_str(), &about);
    EXPECT_LT(about.st_blocks * 512, 1'000'000) << "zeros are holes";
    // Over what is there: merged, and the same again.
    put("back/own", "stays");
    ASSERT_TRUE(copy_out(connection, at("guest/."), at("back"), {}));
    EXPECT_EQ(got("back/own"), "stays");
    EXPECT_EQ(got("back/large"), got("tree/large"));
}

TEST_F(Copy, NamesOfOneFileAreThatAgainOnTheHost) {
    fs::create_directories(at("tree/sub"));
    put("tree/one", "content");
    put("tree/other", "content");
    put("outside", "content");
    fs::create_hard_link(at("tree/one"), at("tree/sub/two"));
    fs::create_hard_link(at("tree/one"), at("tree/three"));
    fs::create_hard_link(at("outside"), at("tree/lone"));  // its other name is not copied
    const auto inode = [&](const std::string& name) {
        struct stat about = {};
        EXPECT_EQ(::lstat(at(name).c_str(), &about), 0) << name;
        return about.st_ino;
    };
    for (int round = 0; round < 2; ++round) {  // the second over what is there
        const auto back = out("tree/.", "back");
        ASSERT_TRUE(back) << back.error().message;
        EXPECT_EQ(back->files, 3u);
        EXPECT_EQ(back->links, 2u);
    }
    EXPECT_EQ(all_of("back"), all_of("tree"));
    EXPECT_EQ(inode("back/one"), inode("back/sub/two"));
    EXPECT_EQ(inode("back/one"), inode("back/three"));
    EXPECT_NE(inode("back/one"), inode("back/other"));
    EXPECT_NE(inode("back/lone"), inode("outside"));
}

TEST_F(Copy, NamesOfOneFileAreThatAgainInTheGuest) {
    fs::create_directories(at("tree/sub"));
    put("tree/one", "several names");
    put("tree/other", "content");
    put("outside", "content");
    fs::create_hard_link(at("tree/one"), at("tree/sub/two"));
    fs::create_hard_link(at("tree/one"), at("tree/three"));
    fs::create_hard_link(at("outside"), at("tree/lone"));  // its other name is not copied
    for (int round = 0; round < 3; ++round) {              // the second over what is there
        if (round == 2) {                                  // and over what is something else
            fs::remove(at("guest/one"));
            fs::remove(at("guest/three"));
            put("guest/three", "another");
        }
        const auto counts = in("tree/.", "guest");
        ASSERT_TRUE(counts) << counts.error().message;
        EXPECT_EQ(counts->files, 3u);
        EXPECT_EQ(counts->links, 2u);
        EXPECT_EQ(counts->separate, 0u);
        EXPECT_TRUE(fs::equivalent(at("guest/one"), at("guest/sub/two")));
        EXPECT_TRUE(fs::equivalent(at("guest/one"), at("guest/three")));
        EXPECT_FALSE(fs::equivalent(at("guest/lone"), at("outside")));
        EXPECT_EQ(fs::hard_link_count(at("guest/one")), 3u);
    }
    EXPECT_EQ(all_of("guest"), all_of("tree"));
    for (const char* name : {"guest", "guest/sub"}) {
        for (const auto& entry : fs::directory_iterator(at(name)))
            EXPECT_FALSE(entry.path().filename().string().starts_with(".spore")) << entry.path();
    }
}

TEST_F(Copy, LinksInTheGuestLeadNothingOutOfItsTarget) {
    fs::create_directories(at("tree/sub"));
    put("tree/file", "new");
    fs::create_directories(at("guest"));
    fs::create_directories(at("elsewhere"));
    put("victim", "safe");
    ASSERT_EQ(::symlink(at("victim").c_str(), at("guest/file").c_str()), 0);
    ASSERT_TRUE(in("tree/.", "guest"));
    EXPECT_EQ(got("guest/file"), "new");
    EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(at("guest/file"))));
    EXPECT_EQ(got("victim"), "safe");
    put("tree/sub/file", "new");
    fs::remove(at("guest/sub"));
    ASSERT_EQ(::symlink(at("elsewhere").c_str(), at("guest/sub").c_str()), 0);
    EXPECT_EQ(code(in("tree/.", "guest")), Code::already_exists);
    EXPECT_TRUE(fs::is_empty(at("elsewhere")));
    // The target itself is what its user has named.
    ASSERT_EQ(::symlink(at("elsewhere").c_str(), at("named").c_str()), 0);
    ASSERT_TRUE(in("tree/.", "named"));
    EXPECT_EQ(got("elsewhere/file"), "new");
}

TEST_F(Copy, PutsItsSourceWhereCpDoes) {
    put("file", "1");
    fs::create_directories(at("dir"));
    fs::create_directories(at("tree/sub"));
    EXPECT_TRUE(in("file", "copy"));
    EXPECT_TRUE(in("file", "dir"));
    EXPECT_TRUE(in("file", "made/on/the/way"));
    EXPECT_TRUE(in("tree", "dir"));
    EXPECT_TRUE(in("tree/.", "merged"));
    EXPECT_TRUE(in("tree/", "slash"));
    for (const char* name :
         {"copy", "dir/file", "made/on/the/way", "dir/tree/sub", "merged/sub", "slash/sub"})
        EXPECT_TRUE(fs::exists(at(name))) << name;
    fs::create_directories(at("host"));
    EXPECT_TRUE(out("file", "host"));
    EXPECT_TRUE(out("file", "host/other"));
    EXPECT_TRUE(out("tree", "host"));
    EXPECT_TRUE(out("tree", "host/new"));
    EXPECT_TRUE(out("tree/.", "host"));
    EXPECT_THAT(names("host"), ElementsAre("file", "new", "other", "sub", "tree"));
    EXPECT_EQ(code(out("none", "host")), Code::not_found);
    EXPECT_EQ(code(out("file", "no/where")), Code::not_found);
    EXPECT_EQ(code(in("none", "x")), Code::not_found);
    EXPECT_EQ(code(copy_out(connection, "/dev/zero", at("x"), {})), Code::invalid_argument);
    ASSERT_EQ(::mkfifo(at("fifo").c_str(), 0600), 0);
    EXPECT_EQ(code(out("file", "fifo")), Code::invalid_argument) << "it would be replaced";
    EXPECT_EQ(code(in("fifo", "x")), Code::invalid_argument);
    CopyOptions options;
    options.bytes_max = 1'000'000;
    put("large", pattern(2'000'000, 1));
    EXPECT_EQ(code(copy_out(connection, at("large"), at("host/large"), options)),
              Code::resource_exhausted);
    EXPECT_FALSE(fs::exists(at("host/large")));
    EXPECT_EQ(names("host").size(), 5u) << "and no piece of it";
}

TEST_F(Copy, TakesNoPrivilegeFromTheGuest) {
    put("file", "#!");
    ::chmod(at("file").c_str(), 06755);
    ASSERT_TRUE(out("file", "host"));
    EXPECT_EQ(fs::status(at("host")).permissions(), fs::perms(0755));
    ASSERT_TRUE(in("file", "guest"));
    EXPECT_EQ(fs::status(at("guest")).permissions(), fs::perms(06755));
}

// A guest whose lists have these entries, and whose files all say "hostile".
class HostileAgent {
  public:
    struct Entry {
        std::string path;
        wire::FileType type = wire::FileType::file;
        std::string target;
    };

    explicit HostileAgent(std::vector<Entry> entries) : entries_(std::move(entries)) {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        socket_ = UniqueFd(ends[0]);
        other_ = UniqueFd(ends[1]);
        server_ = std::jthread([this] { serve(); });
    }

    Result<CopyCounts> copy(const std::string& to) {
        return use(
            [&](const auto& agent) { return copy_out(agent, "/tree", to, {.deadline = soon()}); });
    }
    Result<CopyCounts> copy_to(const std::shared_ptr<AgentConnection>& target,
                               const std::string& to) {
        return use([&](const auto& agent) {
            return copy_across(agent, "/tree", target, to, {.deadline = soon()});
        });
    }

  private:
    template <typename Use>
    Result<CopyCounts> use(Use copies) {
        auto connection =
            TRY(AgentConnection::over(TRY(AgentClient::over(std::move(other_), soon()))));
        auto counts = copies(connection);
        connection->close();
        return counts;
    }
    flatbuffers::Offset<wire::FileEntry> entry(const Entry& each) {
        auto& buffer = builder_.buffer();
        const auto bytes = [&](const std::string& text) {
            return buffer.CreateVector(reinterpret_cast<const uint8_t*>(text.data()), text.size());
        };
        const auto path = bytes(each.path), target = bytes(each.target);
        return wire::CreateFileEntry(buffer, path, each.type, 0, 07777, 0, 0, 0, target);
    }
    template <typename Body>
    void send(uint32_t stream, flatbuffers::Offset<Body> body) {
        const auto frame = builder_.finish(stream, body);
        (void)!::send(socket_.get(), frame.data(), frame.size(), MSG_NOSIGNAL);
        builder_.reset();
    }
    void answer(const wire::Frame& frame) {
        auto& buffer = builder_.buffer();
        const uint32_t stream = frame.stream();
        if (frame.body_as_Hello() != nullptr) {
            const auto version = buffer.CreateString("0");
            const auto boot = buffer.CreateString("0");
            return send(stream, wire::CreateHelloReply(buffer, kAgentProtocolMax, version, boot));
        }
        if (frame.body_as_Stat() != nullptr)
            send(stream, entry({"/tree", wire::FileType::directory, ""}));
        if (frame.body_as_List() != nullptr) {
            std::vector<flatbuffers::Offset<wire::FileEntry>> all;
            for (const Entry& each : entries_)
                all.push_back(entry(each));
            const auto entries = buffer.CreateVector(all);
            send(stream, wire::CreateFileEntries(buffer, entries));
        }
        if (frame.body_as_FileRead() != nullptr) {
            send(stream, entry({"/x", wire::FileType::file, ""}));
            const auto bytes = buffer.CreateVector(reinterpret_cast<const uint8_t*>("hostile"), 7);
            send(stream, wire::CreateFileData(buffer, bytes));
        }
        if (frame.body_as_Credit() == nullptr && frame.body_as_Cancel() == nullptr)
            send(stream, wire::CreateDone(buffer));
    }
    void serve() {
        FrameReader reader;
        while (true) {
            const auto room = reader.room();
            const ssize_t count = ::recv(socket_.get(), room.data(), room.size(), 0);
            if (count <= 0)
                return;
            reader.received(static_cast<size_t>(count));
            while (const auto* frame = reader.next().value_or(nullptr))
                answer(*frame);
        }
    }

    std::vector<Entry> entries_;
    UniqueFd socket_, other_;
    FrameBuilder builder_;
    std::jthread server_;
};

class HostileCopy : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directories(base.path() + "/victim");
        std::ofstream(base.path() + "/victim/file") << "safe";
        fs::create_directories(base.path() + "/to");
    }
    // Whatever comes of it, nothing outside of the target has changed.
    Result<CopyCounts> copy(std::vector<HostileAgent::Entry> entries) {
        auto counts = HostileAgent(std::move(entries)).copy(base.path() + "/to");
        std::vector<std::string> outside;
        for (const auto& each : fs::recursive_directory_iterator(base.path())) {
            const std::string path = each.path().lexically_relative(base.path());
            if (!path.starts_with("to/"))
                outside.push_back(path);
        }
        std::ranges::sort(outside);
        EXPECT_THAT(outside, ElementsAre("to", "victim", "victim/file"));
        std::ifstream file(base.path() + "/victim/file");
        std::string content;
        std::getline(file, content);
        EXPECT_EQ(content, "safe");
        return counts;
    }

    const FilesDirectory base;
};

TEST_F(HostileCopy, NamesThatLeadOutAreRefused) {
    using namespace std::string_literals;
    for (const std::string& name :
         {"../out"s, "../victim/file"s, "/etc/spore-hostile"s, base.path() + "/victim/file",
          "a/../../victim/file"s, ".."s, "."s, ""s, "a//b"s, "a/"s, "./x"s, "x\0/y"s}) {
        const auto refused = copy({{name}});
        ASSERT_FALSE(refused) << name;
        EXPECT_EQ(refused.error().code, Code::invalid_argument) << name;
        EXPECT_FALSE(copy({{name, wire::FileType::directory, ""}})) << name;
        EXPECT_FALSE(copy({{name, wire::FileType::symlink, "/etc"}})) << name;
    }
    EXPECT_FALSE(fs::exists("/etc/spore-hostile"));
}

TEST_F(HostileCopy, LinksThatLeadOutAreMadeAndNeverFollowed) {
    const std::string victim = base.path() + "/victim";
    const auto through = copy({{"link", wire::FileType::symlink, victim}, {"link/file"}});
    ASSERT_FALSE(through);
    EXPECT_EQ(through.error().code, Code::already_exists) << through.error().message;
    EXPECT_FALSE(copy({{"up", wire::FileType::symlink, "../../victim"}, {"up/new"}}));
    EXPECT_FALSE(copy({{"dir", wire::FileType::directory, ""},
                       {"dir/out", wire::FileType::symlink, victim},
                       {"dir/out/sub", wire::FileType::directory, ""}}));
    EXPECT_FALSE(copy({{"link", wire::FileType::directory, ""}, {"link/file"}})) << "of before";
    // A directory that becomes a link, and the other way round.
    EXPECT_FALSE(copy({{"turn", wire::FileType::directory, ""},
                       {"turn", wire::FileType::symlink, victim},
                       {"turn/file"}}));
    // The same name as a link and then as a file: the link is replaced, what it leads to not.
    const auto replaced = copy({{"same", wire::FileType::symlink, victim + "/file"}, {"same"}});
    ASSERT_TRUE(replaced) << replaced.error().message;
    EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(base.path() + "/to/tree/same")));
    EXPECT_EQ(fs::status(base.path() + "/to/tree/same").permissions(), fs::perms(0777));
}

class AcrossCopy : public Copy {
  protected:
    void SetUp() override {
        Copy::SetUp();
        auto made = AgentConnection::over(second.client());
        ASSERT_TRUE(made) << made.error().message;
        target = std::move(*made);
    }
    Result<CopyCounts> across(const std::string& from, const std::string& to) {
        return copy_across(connection, at(from), target, at(to), {.deadline = soon()});
    }

    RunningAgent second;
    std::shared_ptr<AgentConnection> target;
};

TEST_F(AcrossCopy, TreeIsInTheOtherGuestAsItWas) {
    make_tree("tree");
    const auto counts = across("tree", "other");
    ASSERT_TRUE(counts) << counts.error().message;
    EXPECT_EQ(counts->files, 204u);
    EXPECT_EQ(counts->directories, 4u);
    EXPECT_EQ(counts->links, 2u);
    EXPECT_EQ(counts->skipped, 1u) << "the FIFO";
    fs::remove(at("tree/fifo"));
    EXPECT_EQ(all_of("other"), all_of("tree"));
    fs::create_hard_link(at("tree/large"), at("tree/a/b/name"));
    const auto linked = across("tree", "linked");
    ASSERT_TRUE(linked) << linked.error().message;
    EXPECT_EQ(linked->links, 3u);
    EXPECT_TRUE(fs::equivalent(at("linked/large"), at("linked/a/b/name")));
    fs::remove(at("tree/a/b/name"));
    fs::create_directories(at("dir"));
    EXPECT_TRUE(across("tree/a/1", "dir"));
    EXPECT_TRUE(across("tree/.", "dir"));
    EXPECT_EQ(got("dir/1"), got("tree/a/1"));
    EXPECT_EQ(got("dir/large"), got("tree/large"));
    EXPECT_EQ(code(across("none", "dir")), Code::not_found);
}

TEST_F(AcrossCopy, AFileThatCannotBeWrittenIsAsItWas) {
    const SmallDisk disk(at("small"));
    if (!disk)
        GTEST_SKIP() << "tmpfs cannot be mounted here";
    put("large", pattern(3'000'000, 4));
    put("small/file", "old");
    EXPECT_EQ(code(across("large", "small/file")), Code::resource_exhausted);
    EXPECT_EQ(got("small/file"), "old");
    EXPECT_THAT(names("small"), ElementsAre("file"));
}

TEST_F(AcrossCopy, AHostileSourceStaysWithinItsTarget) {
    put("victim", "safe");
    fs::create_directories(at("to"));
    fs::create_directories(at("elsewhere"));
    using wire::FileType;
    const std::string out = at("elsewhere");
    const std::vector<std::vector<HostileAgent::Entry>> lists = {
        {{"../victim"}},
        {{"a/../../victim"}},
        {{""}},
        {{"link", FileType::symlink, out}, {"link/file"}},
        {{"link", FileType::directory, ""}, {"link/file"}},  // a symbolic link of before
        {{"dir", FileType::directory, ""},
         {"dir/out", FileType::symlink, out},
         {"dir/out/sub", FileType::directory, ""}},
        {{"turn", FileType::directory, ""}, {"turn", FileType::symlink, out}, {"turn/file"}},
        {{"no/such/parent"}},
    };
    for (const auto& list : lists) {
        const auto copied = HostileAgent(list).copy_to(target, at("to"));
        EXPECT_FALSE(copied) << list.front().path;
    }
    // A file under the name of a link, of now and of before, takes its place.
    for (const auto& list : std::vector<std::vector<HostileAgent::Entry>>{
             {{"same", FileType::symlink, at("victim")}, {"same"}},
             {{"before", FileType::symlink, at("victim")}},
             {{"before"}}}) {
        const auto copied = HostileAgent(list).copy_to(target, at("to"));
        EXPECT_TRUE(copied) << copied.error().message;
    }
    for (const char* name : {"to/tree/same", "to/tree/before"}) {
        EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(at(name)))) << name;
        EXPECT_EQ(got(name), "hostile");
    }
    EXPECT_EQ(got("victim"), "safe");
    EXPECT_TRUE(fs::is_empty(out));
    EXPECT_TRUE(HostileAgent({{"file"}}).copy_to(target, at("to")));
    EXPECT_EQ(got("to/tree/file"), "hostile");
    EXPECT_EQ(fs::status(at("to/tree/file")).permissions(), fs::perms(0777)) << "no set-user-ID";
}

}  // namespace
}  // namespace spore
