// Files and watches of the public API, over a real agent.

#include <gmock/gmock.h>

#include "tests/unit/hypervisor/api/fake_sandbox.h"

namespace spore {
namespace {

using namespace std::chrono_literals;

class LibraryFiles : public SandboxFixture {
  protected:
    void SetUp() override {
        SandboxFixture::SetUp();
        ASSERT_TRUE(sandbox);
        files.emplace(sandbox->files());
        place = fake.home() / "guest";
        std::filesystem::create_directory(place);
    }

    std::optional<Files> files;
    std::string place;
};

TEST_F(LibraryFiles, WritesReadsAndLists) {
    const std::string odd = place + "/a \n\xff'\"$(x)";
    const std::string bytes("any\0bytes\xff", 10);
    EXPECT_EQ(files->write(odd, bytes, {.mode = 0640}, soon()).value(), bytes.size());
    EXPECT_EQ(files->read(odd, soon()).value(), bytes);
    EXPECT_EQ(files->write(odd, "+more", {.how = WriteOptions::How::append}, soon()).value(), 15u);
    EXPECT_EQ(files->read(odd, soon(), 14).error().code, Code::resource_exhausted);
    const auto entry = files->stat(odd, false, soon());
    ASSERT_TRUE(entry) << entry.error().message;
    EXPECT_EQ(entry->kind, Files::Kind::file);
    EXPECT_EQ(entry->size, 15u);
    EXPECT_EQ(entry->mode, 0640u);
    EXPECT_LT(std::chrono::abs(std::chrono::system_clock::now() - entry->modified), 10min);
    EXPECT_EQ(files->write(odd, "x", {.how = WriteOptions::How::create}, soon()).error().code,
              Code::already_exists);
    ASSERT_TRUE(files->make_directory(place + "/d/e", true, 0, soon()));
    ASSERT_TRUE(files->make_symlink(place + "/l", "d/e", false, soon()));
    EXPECT_EQ(files->stat(place + "/l", false, soon())->target, "d/e");
    EXPECT_EQ(files->stat(place + "/l", true, soon())->kind, Files::Kind::directory);
    std::vector<std::string> names;
    const auto listed = files->list(place, true, soon());
    ASSERT_TRUE(listed) << listed.error().message;
    for (const auto& each : *listed)
        names.push_back(each.path);
    EXPECT_THAT(names, testing::UnorderedElementsAre("a \n\xff'\"$(x)", "d", "d/e", "l"));
    EXPECT_EQ(files->list(place, true, soon(), 2).error().code, Code::resource_exhausted);
    ASSERT_TRUE(files->set_mode(odd, 0600, {}, soon()));
    ASSERT_TRUE(files->move(odd, place + "/b", false, soon()));
    EXPECT_FALSE(files->exists(odd, soon()).value());
    EXPECT_EQ(files->stat(place + "/b", false, soon())->mode, 0600u);
    EXPECT_TRUE(files->remove(place, true, soon()));
    EXPECT_EQ(files->read(place + "/b", soon()).error().code, Code::not_found);
}

TEST_F(LibraryFiles, StreamsWhatIsLargeAndLeavesAFileAsItWasWhenThatFails) {
    constexpr size_t kBytes = 20 << 20;
    size_t given = 0;
    const Files::Source source = [&](std::span<std::byte> buffer) -> Result<size_t> {
        const size_t count = std::min(buffer.size(), kBytes - given);
        for (std::byte& byte : buffer.first(count))
            byte = static_cast<std::byte>(given++ * 31 >> 3);
        return count;
    };
    ASSERT_EQ(files->write(place + "/big", source, {}, soon()).value(), kBytes);
    size_t got = 0, wrong = 0;
    const auto read = files->read(
        place + "/big",
        [&](std::span<const std::byte> bytes) -> Status {
            for (const std::byte byte : bytes)
                wrong += byte != static_cast<std::byte>(got++ * 31 >> 3);
            return {};
        },
        0, 0, soon());
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(got, kBytes);
    EXPECT_EQ(wrong, 0u);
    const auto failed = files->write(
        place + "/big",
        [](std::span<std::byte>) -> Result<size_t> {
            return std::unexpected(Error{Code::corrupt, "no source"});
        },
        {}, soon());
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().message, "no source");
    EXPECT_EQ(files->stat(place + "/big", false, soon())->size, kBytes);
}

TEST_F(LibraryFiles, CopiesTreesBothWaysAndTellsHowFarItIs) {
    const std::string source = fake.home() / "source", back = fake.home() / "back";
    std::filesystem::create_directories(source + "/d");
    std::ofstream(source + "/d/file") << "content";
    std::filesystem::create_symlink("d/file", source + "/link");
    ASSERT_EQ(::mkfifo((source + "/fifo").c_str(), 0600), 0);
    std::vector<uint64_t> told;
    std::vector<std::string> skipped;
    const TreeOptions options = {
        .progress = [&](const TreeCounts& counts) { told.push_back(counts.bytes); },
        .skipped = [&](const std::string& path, const std::string&) { skipped.push_back(path); }};
    const auto in = files->copy_in(source, place, options, soon());
    ASSERT_TRUE(in) << in.error().message;
    EXPECT_EQ(in->bytes, 7u);
    EXPECT_EQ(in->files, 1u);
    EXPECT_EQ(in->directories, 2u);
    EXPECT_EQ(in->links, 1u);
    EXPECT_EQ(in->skipped, 1u);
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(told.back(), 7u);
    EXPECT_THAT(skipped, testing::ElementsAre(place + "/source/fifo"));
    const auto out = files->copy_out(place + "/source", back, {}, soon());
    ASSERT_TRUE(out) << out.error().message;
    EXPECT_EQ(out->files, 1u);
    std::string content;
    std::ifstream(back + "/link") >> content;
    EXPECT_EQ(content, "content");
    const auto across = files->copy_across(place + "/source", *files, place + "/again", {}, soon());
    ASSERT_TRUE(across) << across.error().message;
    EXPECT_EQ(across->files, 1u);
    EXPECT_EQ(files->read(place + "/again/d/file", soon()).value(), "content");
    EXPECT_TRUE(files->make_hard_link(place + "/name", place + "/again/d/file", false, soon()));
    EXPECT_EQ(files->stat(place + "/name", false, soon())->links, 2u);
    EXPECT_EQ(
        files->copy_out(place + "/source", back + "/2", {.bytes_max = 3}, soon()).error().code,
        Code::resource_exhausted);
    std::stop_source stop;
    stop.request_stop();
    EXPECT_EQ(files->copy_in(source, place, {}, {.stop = stop.get_token()}).error().code,
              Code::unavailable);
}

TEST_F(LibraryFiles, WatchTellsChangesUntilItIsCancelled) {
    const auto watch = files->watch(place, true, soon());
    ASSERT_TRUE(watch) << watch.error().message;
    EXPECT_EQ(watch->next(Call::within(20ms)).error().code, Code::timeout);
    ASSERT_TRUE(files->make_directory(place + "/new", false, 0, soon()));
    const auto changes = watch->next(soon());
    ASSERT_TRUE(changes) << changes.error().message;
    ASSERT_FALSE(changes->empty());
    EXPECT_EQ(changes->front().kind, Watch::Change::Kind::created);
    EXPECT_EQ(changes->front().path, "new");
    EXPECT_TRUE(changes->front().directory);
    std::jthread canceller([&] {
        std::this_thread::sleep_for(20ms);
        watch->cancel();
    });
    while (const auto more = watch->next(soon()))
        EXPECT_FALSE(more->empty()) << "an end that nobody asked for";
    EXPECT_EQ(watch->next(soon()).error().code, Code::unavailable);
}

}  // namespace
}  // namespace spore
