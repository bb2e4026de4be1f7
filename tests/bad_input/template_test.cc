// Templates whose files are broken, moved, or taken away, and those that must not be: with
// bench/guest/agent.c as the guest, so that they are made and cloned on any /dev/kvm.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "hypervisor/base/unique_fd.h"
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/snapshot/seal.h"
#include "tests/bad_input/support/seed.h"
#include "tests/bad_input/support/vmm_bench.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;
using namespace std::chrono_literals;

constexpr int kData = 65, kNone = 66, kUnavailable = 69;

void flip(const stdfs::path& path, uint64_t place, unsigned bit) {
    ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
    UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    char byte = 0;
    ASSERT_EQ(::pread(file.get(), &byte, 1, static_cast<off_t>(place)), 1);
    byte = static_cast<char>(byte ^ (1 << bit));
    ASSERT_EQ(::pwrite(file.get(), &byte, 1, static_cast<off_t>(place)), 1);
}

ino_t inode_of(const stdfs::path& path) {
    struct stat status = {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_ino;
}

// A home with an image and a template of it, "t".
class TemplateTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (auto kvm = Kvm::open(); !kvm)
            GTEST_SKIP() << kvm.error().message;
        ASSERT_TRUE(stdfs::exists(AGENT_GUEST_PATH)) << "build it first: ninja bench/agent.elf";
        stand_apart();
        stdfs::create_directory(here() / "tmp");
        make_image('d');
        expect_good({"template", "create", "t", "--image", "i", "--memory", "64M", "--disk", "2M"});
    }
    void TearDown() override {
        if (!IsSkipped() && stdfs::exists(here() / "home/sandboxes")) {
            for (const auto& entry : stdfs::directory_iterator(here() / "home/sandboxes"))
                (void)spore({"destroy", entry.path().filename().string()});
        }
    }

    const stdfs::path& here() const { return scratch_.path(); }
    stdfs::path directory(const std::string& name = "t") const {
        return here() / "home/templates" / name;
    }
    Launch launch(const Words& arguments) const {
        return {.program = SPORE_PATH,
                .arguments = arguments,
                .directory = here(),
                .environment = {{"SPORE_HOME", (here() / "home").string()},
                                {"TMPDIR", (here() / "tmp").string()}},
                .prepare = {}};
    }
    Ended spore(const Words& arguments) const { return run_process(launch(arguments), 60s); }
    Ended expect_good(const Words& arguments) const {
        Ended ended = spore(arguments);
        EXPECT_TRUE(ended.status == 0 && ended.signal == 0)
            << arguments[0] << " " << arguments[1] << ": " << ended.describe();
        return ended;
    }
    void expect_refused(const Words& arguments, int status, const Words& words) const {
        std::string flaw = refusal_flaw(spore(arguments), "spore", status, words);
        EXPECT_TRUE(flaw.empty()) << arguments[0] << " " << arguments[1] << ": " << flaw;
    }
    // A clone of it lives, answers, and goes.
    void expect_clone(const std::string& name = "t") const {
        expect_good({"create", "box", "--template", name});
        EXPECT_EQ(spore({"exec", "box", "--", "hostname"}).out, "box\n");
        expect_good({"destroy", "box"});
    }
    nlohmann::json verified(const std::string& name = "t") const {
        return nlohmann::json::parse(expect_good({"template", "verify", name, "--json"}).out);
    }

    // As the builder does: a new directory takes the place of the old.
    void make_image(char content) const {
        stdfs::path image = here() / "home/images/i";
        stdfs::create_directories(image);
        write_file(image / "rootfs.img.new", std::string(1 << 20, content));
        ASSERT_EQ(::chmod((image / "rootfs.img.new").c_str(), 0400), 0);
        stdfs::rename(image / "rootfs.img.new", image / "rootfs.img");
        write_file(image / "initramfs", "nobody reads it");
        stdfs::copy_file(AGENT_GUEST_PATH, image / "vmlinux",
                         stdfs::copy_options::overwrite_existing);
        write_file(image / "image.json",
                   R"({"format": 1, "rootfs": {"path": "rootfs.img"}, "kernels": {"stock": )"
                   R"({"vmlinux": "vmlinux", "vmlinuz": "vmlinux", "initramfs": "initramfs"}}})");
    }
    // With its own inodes, and so with a seal that is another's.
    void copy_template(const std::string& to) const { stdfs::copy(directory(), directory(to)); }

    Scratch scratch_;
};

TEST_F(TemplateTest, OwnsWhatItsImageGaveIt) {
    EXPECT_EQ(inode_of(directory() / "base.img"), inode_of(here() / "home/images/i/rootfs.img"))
        << "no second copy of it";
    for (const auto& entry : stdfs::directory_iterator(directory())) {
        if (entry.path().extension() != ".log") {
            EXPECT_EQ(entry.status().permissions(), stdfs::perms::owner_read) << entry.path();
        }
    }
    // Its image becomes another, is the base of another template, goes.
    ino_t base = inode_of(directory() / "base.img");
    make_image('e');
    expect_clone();
    expect_good({"template", "create", "u", "--image", "i", "--memory", "64M", "--disk", "2M"});
    EXPECT_NE(inode_of(directory("u") / "base.img"), base);
    EXPECT_FALSE(verified()["sealed_anew"]) << "its seal does not mind";
    expect_good({"image", "remove", "i"});
    EXPECT_FALSE(stdfs::exists(here() / "home/images/i"));
    EXPECT_EQ(inode_of(directory() / "base.img"), base);
    for (const char* name : {"t", "u"}) {
        expect_clone(name);
        EXPECT_FALSE(verified(name)["sealed_anew"]) << name;
        expect_good({"template", "inspect", name});
        expect_good({"template", "remove", name});
    }
    EXPECT_TRUE(stdfs::is_empty(here() / "home/templates"));
}

// An image on another file system, or another user's: the template gets a copy.
TEST_F(TemplateTest, CopiesABaseThatItCannotLink) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root can make a file another user's";
    ASSERT_EQ(::chown((here() / "home/images/i/rootfs.img").c_str(), 65534, 65534), 0);
    expect_good({"template", "create", "u", "--image", "i", "--memory", "64M", "--disk", "2M"});
    EXPECT_NE(inode_of(directory("u") / "base.img"), inode_of(here() / "home/images/i/rootfs.img"));
    EXPECT_EQ(read_file(directory("u") / "base.img"), std::string(1 << 20, 'd'));
    expect_clone("u");
}

// Each file, whatever of it is read when: the clone is refused, or is whole.
TEST_F(TemplateTest, WithAnyBitFlippedIsFound) {
    std::mt19937_64 random(test_seed());
    std::vector<std::string> names;
    for (const auto& entry : stdfs::directory_iterator(directory())) {
        if (entry.path().extension() != ".log" && entry.path().filename() != kSealFile)
            names.push_back(entry.path().filename());
    }
    std::ranges::sort(names);
    for (const char* name : {"base.img", "checksums.spore", "disk-0.img", "disk-0.map",
                             "memory.img", "state.spore", "template.json"})
        EXPECT_NE(std::ranges::find(names, name), names.end()) << name;
    for (const std::string& name : names) {
        for (int count = 0; count < 3; count++) {
            uint64_t place = random() % stdfs::file_size(directory() / name);
            auto bit = static_cast<unsigned>(random() % 8);
            SCOPED_TRACE(name + " at " + std::to_string(place) + " bit " + std::to_string(bit));
            flip(directory() / name, place, bit);
            // A bit of template.json may be its format's.
            if (name == "template.json") {
                Ended ended = spore({"template", "verify", "t"});
                EXPECT_EQ(ended.status, kData) << ended.describe();
                EXPECT_EQ(spore({"create", "box", "--template", "t"}).status, kData);
            } else {
                expect_refused({"template", "verify", "t"}, kData, {name});
                if (name == "checksums.spore")
                    expect_clone();  // which does not need them
                else
                    expect_refused({"create", "box", "--template", "t"}, kData, {name});
            }
            flip(directory() / name, place, bit);
            // Right again; that somebody was at it, the next clone finds, and looks at all of it.
            expect_clone();
            expect_clone();
        }
    }
    EXPECT_TRUE(stdfs::is_empty(here() / "home/sandboxes"));
}

TEST_F(TemplateTest, NamesThePlaceThatIsWrong) {
    flip(directory() / "memory.img", (10 << 20) + 5, 3);
    Words words = {"template 't'", "memory.img", "from 10485760 to 12582911"};
    expect_refused({"create", "box", "--template", "t"}, kData, words);
    expect_refused({"pool", "start", "t", "--ready", "1"}, kData, words);
    expect_refused({"template", "verify", "t"}, kData, words);
}

TEST_F(TemplateTest, WithFilesOfAnotherLengthIsRefused) {
    for (const char* name : {"memory.img", "disk-0.img", "base.img"}) {
        stdfs::path path = directory() / name;
        ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
        uint64_t bytes = stdfs::file_size(path);
        for (uint64_t wrong : {uint64_t{0}, bytes - 4096, bytes + 4096}) {
            copy_template("u");
            stdfs::resize_file(directory("u") / name, wrong);
            SCOPED_TRACE(std::string(name) + ": " + std::to_string(wrong));
            expect_refused({"template", "verify", "u"}, kData, {name, std::to_string(wrong)});
            Ended ended = spore({"create", "box", "--template", "u"});
            EXPECT_NE(ended.status, 0);
            EXPECT_NE(ended.err.find(name), std::string::npos) << ended.describe();
            stdfs::remove_all(directory("u"));
        }
    }
}

TEST_F(TemplateTest, WithAFileMissingIsRefused) {
    for (const char* name : {"memory.img", "disk-0.img", "disk-0.map", "base.img", "state.spore"}) {
        copy_template("u");
        stdfs::remove(directory("u") / name);
        expect_refused({"template", "verify", "u"}, kData, {name, "is missing"});
        Ended ended = spore({"create", "box", "--template", "u"});
        EXPECT_TRUE(ended.status == kNone || ended.status == kData) << ended.describe();
        EXPECT_NE(ended.err.find(name), std::string::npos) << ended.describe();
        stdfs::remove_all(directory("u"));
    }
    // The seal alone is made again from the checksums; not without them.
    stdfs::remove(directory() / "seal.spore");
    expect_clone();
    EXPECT_FALSE(verified()["sealed_anew"]);
    stdfs::remove(directory() / "checksums.spore");
    expect_clone();
    stdfs::remove(directory() / "seal.spore");
    expect_refused({"create", "box", "--template", "t"}, kData, {"checksums.spore", "is missing"});
}

TEST_F(TemplateTest, ThatWasMovedIsComparedAndSealedAnew) {
    copy_template("u");
    EXPECT_TRUE(verified("u")["sealed_anew"]);
    EXPECT_FALSE(verified("u")["sealed_anew"]);
    copy_template("v");
    expect_clone("v");
    EXPECT_FALSE(verified("v")["sealed_anew"]) << "creating the clone did";
    copy_template("w");
    expect_good({"pool", "start", "w", "--ready", "1"});
    EXPECT_FALSE(verified("w")["sealed_anew"]) << "its pool did";
    expect_refused({"template", "remove", "w"}, kUnavailable, {"template 'w'", "pool"});
    expect_clone("w");
    expect_good({"pool", "stop", "w"});
    expect_good({"template", "remove", "w"});
}

TEST_F(TemplateTest, InUseCannotBeRemoved) {
    expect_good({"create", "box", "--template", "t"});
    expect_refused({"template", "remove", "t"}, kUnavailable, {"template 't'", "sandbox 'box'"});
    EXPECT_EQ(spore({"exec", "box", "--", "hostname"}).out, "box\n");
    expect_good({"destroy", "box"});
    expect_good({"template", "remove", "t"});
    expect_refused({"create", "box", "--template", "t"}, kNone, {"template 't'"});
}

// Whoever is first wins, and the other gets a clean error: never half a clone.
TEST_F(TemplateTest, IsClonedOrRemovedButNotBoth) {
    std::mt19937_64 random(test_seed());
    int cloned = 0, removed = 0;
    for (int round = 0; round < 40; round++) {
        stdfs::create_directory(directory("u"));
        for (const auto& entry : stdfs::directory_iterator(directory()))
            stdfs::create_hard_link(entry.path(), directory("u") / entry.path().filename());
        if (round == 0)
            (void)verified();  // from here on its seal minds no links
        Launch launches[] = {launch({"create", "box", "--template", "u"}),
                             launch({"template", "remove", "u"})};
        bool remove_first = random() % 2 == 0;
        Process first = Process::start(launches[remove_first ? 1 : 0]);
        ::usleep(static_cast<useconds_t>(random() % 20'000));
        Process second = Process::start(launches[remove_first ? 0 : 1]);
        Process& create = remove_first ? second : first;
        Process& remove = remove_first ? first : second;
        Ended made = create.wait(60s);
        Ended gone = remove.wait(60s);
        ASSERT_TRUE((made.status == 0) != (gone.status == 0)) << "round " << round << "\n"
                                                              << made.describe() << gone.describe();
        if (made.status == 0) {
            cloned++;
            EXPECT_EQ(gone.status, kUnavailable) << gone.describe();
            EXPECT_EQ(spore({"exec", "box", "--", "hostname"}).out, "box\n");
            expect_good({"destroy", "box"});
            expect_good({"template", "remove", "u"});
        } else {
            removed++;
            EXPECT_TRUE(made.status == kNone || made.status == kUnavailable) << made.describe();
            EXPECT_EQ(refusal_flaw(made, "spore", made.status, {"template 'u'"}), "");
        }
        EXPECT_FALSE(stdfs::exists(directory("u")));
        EXPECT_TRUE(stdfs::is_empty(here() / "home/sandboxes"));
    }
    std::printf("%d cloned, %d removed\n", cloned, removed);
    EXPECT_GT(cloned, 0);
    EXPECT_GT(removed, 0);
}

// Killed at any moment, making a template leaves nothing that the next command does not clear.
TEST_F(TemplateTest, WhoseMakerIsKilledIsNotThere) {
    std::mt19937_64 random(test_seed());
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    Inventory before = Inventory::take(here() / "tmp");
    for (int round = 0; round < 15; round++) {
        Process create = Process::start(
            launch({"template", "create", "u", "--image", "i", "--memory", "64M", "--disk", "2M"}));
        ::usleep(static_cast<useconds_t>(random() % 500'000));
        ::kill(create.pid(), SIGKILL);
        (void)create.wait(60s);
        Ended list = expect_good({"template", "list", "--json"});
        auto document = nlohmann::json::parse(list.out);
        // It may have been finished before the signal.
        EXPECT_TRUE(document.size() == 1 || document.size() == 2) << list.out;
        for (const auto& entry : stdfs::directory_iterator(here() / "home/templates"))
            EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
        if (document.size() == 2)
            expect_good({"template", "remove", "u"});
        // A VMM that was just being started ends when it finds nobody to tell.
        std::string left;
        auto limit = std::chrono::steady_clock::now() + 20s;
        do {
            while (::waitpid(-1, nullptr, WNOHANG) > 0) {
            }
            left = Inventory::difference(before, Inventory::take(here() / "tmp"));
        } while (!left.empty() && std::chrono::steady_clock::now() < limit);
        EXPECT_TRUE(left.empty()) << "round " << round << ": " << left;
    }
    expect_clone();
}

}  // namespace
}  // namespace spore::test
