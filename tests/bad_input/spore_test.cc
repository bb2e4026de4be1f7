// The spore command itself, given what it cannot do.

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "tests/bad_input/support/vmm_bench.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;

constexpr int kUsage = 64, kData = 65, kNone = 66, kExists = 73, kOurs = 125;

class BadCommand : public ::testing::Test {
  protected:
    void SetUp() override {
        stand_apart();
        stdfs::create_directory(here() / "tmp");
        // What every command makes: the directories.
        Ended ended = run_process(launch({"list", "--json"}));
        ASSERT_EQ(ended.status, 0) << ended.describe();
    }
    const stdfs::path& here() const { return scratch_.path(); }
    Launch launch(const Words& arguments) const {
        return {.program = SPORE_PATH,
                .arguments = arguments,
                .directory = here(),
                .environment = {{"SPORE_HOME", home_}, {"TMPDIR", (here() / "tmp").string()}},
                .prepare = {}};
    }
    // As a user sees it, and then with --json (before the command's own words) as a program does:
    // the same error, its code one of the contract's words.
    void expect_refusal(const Words& arguments, int status, const std::string& code,
                        const Words& words) {
        std::string line;
        for (const std::string& argument : arguments)
            line += argument + " ";
        SCOPED_TRACE(line);
        Inventory before = Inventory::take(here());
        Ended plain = run_process(launch(arguments));
        std::string flaw = refusal_flaw(plain, "spore", status, words);
        EXPECT_TRUE(flaw.empty()) << flaw;

        Words with_json = arguments;
        auto end = std::find(with_json.begin(), with_json.end(), "--");
        with_json.insert(end, "--json");
        Ended json = run_process(launch(with_json));
        EXPECT_EQ(json.status, status) << json.describe();
        auto document = nlohmann::json::parse(json.out, nullptr, false);
        ASSERT_TRUE(document.is_object() && document.contains("error")) << json.describe();
        const auto& error = document["error"];
        EXPECT_EQ(error.value("code", ""), code) << json.describe();
        EXPECT_NE(error.value("message", ""), "") << json.describe();
        EXPECT_TRUE(error.contains("details")) << json.describe();
        std::string left = Inventory::difference(before, Inventory::take(here()));
        EXPECT_TRUE(left.empty()) << left;
    }

    Scratch scratch_;
    std::string home_ = (here() / "home").string();
};

TEST_F(BadCommand, IsUnknown) {
    expect_refusal({"frobnicate"}, kUsage, "invalid_argument", {"frobnicate"});
    expect_refusal({"list", "--frobnicate"}, kUsage, "invalid_argument", {"--frobnicate"});
    expect_refusal({"template", "frobnicate"}, kUsage, "invalid_argument", {"frobnicate"});
    expect_refusal({"create", "box"}, kUsage, "invalid_argument", {"--template"});
}

TEST_F(BadCommand, HasABadName) {
    std::string long_name(64, 'a');
    for (const std::string& name : {std::string("Upper"), long_name, std::string("a-"),
                                    std::string("a.b"), std::string("a/b"), std::string("..")}) {
        Words words = {"'" + name + "'", "63"};
        expect_refusal({"create", name, "--template", "t"}, kUsage, "invalid_argument", words);
        expect_refusal({"create", "box", "--template", name}, kUsage, "invalid_argument", words);
        expect_refusal({"destroy", name}, kUsage, "invalid_argument", words);
        expect_refusal({"template", "inspect", name}, kUsage, "invalid_argument", words);
        expect_refusal({"template", "create", name, "--image", "i"}, kUsage, "invalid_argument",
                       words);
        expect_refusal({"image", "inspect", name}, kUsage, "invalid_argument", words);
    }
    expect_refusal({"create", "-box", "--template", "t"}, kUsage, "invalid_argument", {"-b"});
}

TEST_F(BadCommand, NamesWhatDoesNotExist) {
    expect_refusal({"create", "box", "--template", "none"}, kNone, "not_found", {"'none'"});
    expect_refusal({"exec", "none", "--", "true"}, kOurs, "not_found", {"sandbox 'none'"});
    expect_refusal({"destroy", "none"}, kNone, "not_found", {"sandbox 'none'"});
    expect_refusal({"template", "create", "t", "--image", "none"}, kNone, "not_found",
                   {"image 'none'"});
    expect_refusal({"template", "inspect", "none"}, kNone, "not_found", {"'none'"});
    expect_refusal({"template", "remove", "none"}, kNone, "not_found", {"'none'"});
    expect_refusal({"template", "verify", "none"}, kNone, "not_found", {"'none'"});
    expect_refusal({"image", "inspect", "none"}, kNone, "not_found", {"'none'"});
    expect_refusal({"image", "remove", "none"}, kNone, "not_found", {"'none'"});
}

TEST_F(BadCommand, HasABadValue) {
    expect_refusal({"template", "create", "t", "--image", "i", "--memory", "lots"}, kUsage,
                   "invalid_argument", {"'lots'"});
    expect_refusal({"template", "create", "t", "--image", "i", "--disk", "12Q"}, kUsage,
                   "invalid_argument", {"'12Q'"});
    expect_refusal({"template", "create", "t", "--image", "i", "--cpus", "x"}, kUsage,
                   "invalid_argument", {"cpus"});
    expect_refusal({"create", "box", "--template", "t", "--env", "novalue"}, kUsage,
                   "invalid_argument", {"'novalue'"});
    expect_refusal({"create", "box", "--template", "t", "--timeout", "soon"}, kUsage,
                   "invalid_argument", {"'soon'"});
}

TEST_F(BadCommand, MakesATemplateTwice) {
    stdfs::create_directory(here() / "home/templates/twice");
    expect_refusal({"template", "create", "twice", "--image", "i"}, kExists, "already_exists",
                   {"template 'twice'"});
}

TEST_F(BadCommand, FindsABrokenTemplateOrImage) {
    stdfs::create_directory(here() / "home/templates/broken");
    stdfs::create_directory(here() / "home/images/broken");
    for (std::string text : {"", "garbage", "[]", "{\"format\": \"x\"}", "{\"format\": 1}"}) {
        SCOPED_TRACE(text);
        write_file(here() / "home/images/broken/image.json", text);
        if (text.ends_with("1}"))
            text = "{\"format\": 2}";
        write_file(here() / "home/templates/broken/template.json", text);
        expect_refusal({"template", "inspect", "broken"}, kData, "corrupt", {"template.json"});
        expect_refusal({"create", "box", "--template", "broken"}, kData, "corrupt",
                       {"template.json"});
        expect_refusal({"image", "inspect", "broken"}, kData, "corrupt", {"image.json"});
    }
    write_file(here() / "home/images/broken/image.json", "{\"format\": 2}");
    expect_refusal({"image", "inspect", "broken"}, kData, "version_mismatch", {"format 2"});
    // Templates of format 1 had their disk in the image, which may be another by now.
    for (const char* format : {"1", "3"}) {
        write_file(here() / "home/templates/broken/template.json",
                   std::string("{\"format\": ") + format + "}");
        Words words = {"template 'broken'", std::string("format ") + format, "reads 2"};
        expect_refusal({"template", "inspect", "broken"}, kData, "version_mismatch", words);
        expect_refusal({"create", "box", "--template", "broken"}, kData, "version_mismatch", words);
        expect_refusal({"pool", "start", "broken", "--ready", "1"}, kData, "version_mismatch",
                       words);
    }
    Ended ended = run_process(launch({"template", "remove", "broken"}));
    EXPECT_EQ(ended.status, 0) << ended.describe();
    EXPECT_FALSE(stdfs::exists(here() / "home/templates/broken"));
}

TEST_F(BadCommand, HasABadHome) {
    home_ = "relative/home";
    expect_refusal({"list"}, kUsage, "invalid_argument", {"SPORE_HOME 'relative/home'"});
    write_file(here() / "file", "");
    home_ = (here() / "file").string();
    expect_refusal({"list"}, kNone, "not_found", {home_});
    home_ = (here() / "file/below").string();
    expect_refusal({"list"}, kNone, "not_found", {(here() / "file").string()});
}

TEST_F(BadCommand, FindsABrokenRecord) {
    stdfs::create_directory(here() / "home/sandboxes/box");
    for (const char* text : {"gggg", "[]", "{\"format\": 1, \"id\": 7}"}) {
        write_file(here() / "home/sandboxes/box/sandbox.json", text);
        expect_refusal({"list"}, kData, "corrupt", {"box/sandbox.json"});
        expect_refusal({"exec", "box", "--", "true"}, kOurs, "corrupt", {"box/sandbox.json"});
    }
    write_file(here() / "home/sandboxes/box/sandbox.json", "{\"format\": 2}");
    expect_refusal({"list"}, kData, "version_mismatch", {"format 2"});
    // Which does not keep it from being destroyed.
    Ended ended = run_process(launch({"destroy", "box"}));
    EXPECT_EQ(ended.status, 0) << ended.describe();
    EXPECT_FALSE(stdfs::exists(here() / "home/sandboxes/box"));
    EXPECT_TRUE(stdfs::is_empty(here() / "home/sandboxes"));
}

// What a killed `spore create` leaves is cleared away by the next command.
TEST_F(BadCommand, FindsWhatADeadCreatorLeft) {
    stdfs::create_directories(here() / "home/sandboxes/box/deep");
    stdfs::create_directories(here() / "home/sandboxes/.gone-box-x/deep");
    Ended ended = run_process(launch({"list", "--json"}));
    EXPECT_EQ(ended.status, 0) << ended.describe();
    EXPECT_EQ(ended.out, "[]\n");
    EXPECT_TRUE(stdfs::is_empty(here() / "home/sandboxes"));
}

// The same of a killed `spore template create` and `spore template remove`.
TEST_F(BadCommand, FindsWhatADeadTemplateMakerLeft) {
    stdfs::path templates = here() / "home/templates";
    stdfs::create_directories(templates / ".making-t-1/run/deep");
    stdfs::create_directories(templates / ".removing-t-1/deep");
    write_file(templates / ".removing-t-1/memory.img", "x");
    ASSERT_EQ(::chmod((templates / ".removing-t-1/memory.img").c_str(), 0400), 0);
    Ended ended = run_process(launch({"template", "list", "--json"}));
    EXPECT_EQ(ended.status, 0) << ended.describe();
    EXPECT_EQ(ended.out, "[]\n");
    EXPECT_TRUE(stdfs::is_empty(templates));
}

}  // namespace
}  // namespace spore::test
