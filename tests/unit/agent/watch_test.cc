// Watching files and directories through the agent.

#include <set>

#include "hypervisor/base/agent_limits.h"
#include "tests/unit/agent/files_rig.h"

namespace spore {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Not;

class Watching : public FilesRig {
  protected:
    void watch(const std::string& path, bool recursive) {
        auto made = files->watch(path, recursive, soon());
        ASSERT_TRUE(made) << made.error().message;
        watcher = std::move(*made);
    }
    static std::string text(const FileChange& change) {
        return std::string(file_change_name(change.kind)) + " " + change.path +
               (change.to.empty() ? "" : " " + change.to) + (change.directory ? "/" : "");
    }
    // All up to the one that says so, itself left out.
    std::vector<std::string> until(const std::string& last) {
        std::vector<std::string> all;
        while (true) {
            const auto changes = watcher->next(soon());
            if (!changes || changes->empty()) {
                ADD_FAILURE() << "ended before " << last << ": "
                              << (changes ? "Done" : changes.error().message);
                return all;
            }
            for (const FileChange& change : *changes) {
                if (text(change) == last)
                    return all;
                // Attributes come with much else.
                if (change.kind != FileChange::Kind::attributes)
                    all.push_back(text(change));
            }
        }
    }
    // Up to now, told by a file that is made and removed for that.
    std::vector<std::string> so_far() {
        const std::string name = "mark-" + std::to_string(++marks_);
        ::mkdir(at(name).c_str(), 0700);
        ::rmdir(at(name).c_str());
        auto all = until("removed " + name + "/");
        std::erase_if(all, [&](const std::string& each) { return each.contains("mark-"); });
        // A file that is made anew is cut and written, which may come as one or as two.
        all.erase(std::ranges::unique(all).begin(), all.end());
        return all;
    }

    std::unique_ptr<AgentWatch> watcher;

  private:
    int marks_ = 0;
};

TEST_F(Watching, TellsWhatHappensInADirectory) {
    put("old", "");
    fs::create_directory(at("sub"));
    watch(work, false);
    put("new\n\xff", "content");
    EXPECT_THAT(so_far(), ElementsAre("created new\n\xff", "modified new\n\xff"));
    fs::rename(at("old"), at("renamed"));
    fs::rename(at("renamed"), outside + "/elsewhere");
    fs::rename(outside + "/elsewhere", at("back"));
    put("sub/deep", "not told");
    fs::remove(at("back"));
    EXPECT_THAT(so_far(), ElementsAre("moved old renamed", "removed renamed", "created back",
                                      "removed back"));
}

TEST_F(Watching, CoversDirectoriesMadeAndMovedLater) {
    fs::create_directories(at("a/b"));
    watch(work, true);
    put("a/b/one", "1");
    EXPECT_THAT(so_far(), ElementsAre("created a/b/one", "modified a/b/one"));
    // Made in one go, faster than anybody watches: told all the same, perhaps twice.
    fs::create_directories(at("c/d/e"));
    put("c/d/e/file", "x");
    std::set<std::string> told;
    while (!told.contains("created c/d/e/file")) {
        for (std::string& each : so_far())
            told.insert(std::move(each));
    }
    EXPECT_THAT(told, Contains("created c/"));
    EXPECT_THAT(told, Contains("created c/d/"));
    EXPECT_THAT(told, Contains("created c/d/e/"));
    so_far();
    fs::rename(at("c/d"), at("a/moved"));
    put("a/moved/e/file", "y");
    EXPECT_THAT(so_far(), ElementsAre("moved c/d a/moved/", "modified a/moved/e/file"));
    // Out of it: what happens there is nobody's concern. Back: it is.
    fs::rename(at("a/moved"), outside + "/out");
    EXPECT_THAT(so_far(), ElementsAre("removed a/moved/"));
    std::ofstream(outside + "/out/e/file") << "z";
    EXPECT_THAT(so_far(), ElementsAre());
    fs::rename(outside + "/out", at("in"));
    told.clear();
    while (!told.contains("created in/e/file")) {
        for (std::string& each : so_far())
            told.insert(std::move(each));
    }
    put("in/e/file", "again");
    EXPECT_THAT(so_far(), ElementsAre("modified in/e/file"));
    fs::remove_all(at("in"));
    EXPECT_THAT(so_far(), ElementsAre("removed in/e/file", "removed in/e/", "removed in/"));
    // Links are not followed, and loop nothing.
    ASSERT_EQ(::symlink(".", at("a/loop").c_str()), 0);
    EXPECT_THAT(so_far(), ElementsAre("created a/loop"));
}

TEST_F(Watching, EndsWithWhatItWatches) {
    fs::create_directory(at("sub"));
    watch(at("sub"), true);
    put("sub/file", "");
    fs::remove_all(at("sub"));
    EXPECT_THAT(until("gone /"), ElementsAre("created file", "removed file"));
    EXPECT_TRUE(watcher->next(soon())->empty());
}

TEST_F(Watching, EndsWhenItIsMovedOrAFileIsReplaced) {
    fs::create_directory(at("sub"));
    watch(at("sub"), false);
    fs::rename(at("sub"), at("other"));
    EXPECT_THAT(until("gone /"), ElementsAre());
    EXPECT_TRUE(watcher->next(soon())->empty());
    put("file", "old");
    watch(at("file"), true);
    std::ofstream(at("file"), std::ios::app) << "more";
    const UniqueFd held(::open(at("file").c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(write({.path = at("file")}, "new"));
    EXPECT_THAT(until("gone "), ElementsAre("modified "));
    EXPECT_TRUE(watcher->next(soon())->empty());
    EXPECT_EQ(code(files->watch(at("none"), true, soon())), Code::not_found);
}

TEST_F(Watching, SaysWhenItHasLostSomethingAndGoesOn) {
    size_t queue = 0;
    std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> queue;
    if (queue == 0 || queue > 100'000)
        GTEST_SKIP() << "the kernel queues " << queue << " events";
    fs::create_directory(at("sub"));
    watch(work, true);
    // Nobody reads them, so what is granted is used up, and then the kernel's queue.
    const size_t names_a_window = limits::kFileCreditBytes / 20;
    for (size_t i = 0; i < queue + names_a_window; ++i)
        ::mkdir(at("sub/" + std::to_string(i % 1000)).c_str(), 0700) == 0
            ? (void)::rmdir(at("sub/" + std::to_string(i % 1000)).c_str())
            : (void)0;
    fs::create_directories(at("late/deep"));
    const auto lost = until("overflow ");
    EXPECT_GT(lost.size(), 1'000u);
    EXPECT_THAT(so_far(), ElementsAre());
    put("late/deep/file", "watched from then on");
    EXPECT_THAT(so_far(), ElementsAre("created late/deep/file", "modified late/deep/file"));
}

TEST_F(Watching, LargeTreeHoldsUpNobodyAndEndsOnRequest) {
    for (int i = 0; i < 3'000; ++i)
        fs::create_directories(at(std::to_string(i % 50) + "/" + std::to_string(i)));
    RawClient client(agent.connect_socket());
    client.greet();
    auto& buffer = client.buffer();
    const auto path =
        buffer.CreateVector(reinterpret_cast<const uint8_t*>(work.data()), work.size());
    client.send(2, wire::CreateWatch(buffer, path, true, 100'000));
    client.send(3, wire::CreatePing(buffer));
    const auto* first = client.next();
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(first->stream(), 3u) << "looking through the tree is no reason to wait";
    const auto* watching = client.next();
    ASSERT_NE(watching, nullptr);
    ASSERT_NE(watching->body_as_Watching(), nullptr);
    put("49/2999/file", "");
    const auto* events = client.next();
    ASSERT_NE(events, nullptr);
    ASSERT_NE(events->body_as_WatchEvents(), nullptr);
    EXPECT_EQ(events->body_as_WatchEvents()->events()->Get(0)->path()->size(), 12u);
    const size_t before = agent_descriptors();
    client.send(2, wire::CreateCancel(buffer));
    const auto* done = client.next();
    ASSERT_NE(done, nullptr);
    EXPECT_NE(done->body_as_Done(), nullptr);
    client.send(4, wire::CreatePing(buffer));
    ASSERT_NE(client.next(), nullptr);
    EXPECT_LT(agent_descriptors(), before);
}

}  // namespace
}  // namespace spore
