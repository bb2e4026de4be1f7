#include "hypervisor/sandbox/template.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "hypervisor/sandbox/template_files.h"
#include "hypervisor/sandbox/template_lock.h"
#include "hypervisor/sandbox/template_remains.h"
#include "tests/unit/support/scratch_home.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

class TemplateFilesTest : public ::testing::Test {
  protected:
    void SetUp() override { stdfs::create_directory(home_->templates() / "t"); }
    void write(const std::string& text) {
        std::ofstream(home_->templates() / "t/template.json", std::ios::trunc) << text;
    }
    static std::string golden() {
        std::ifstream file(std::string(SPORE_SOURCE_ROOT) +
                           "/tests/golden/template-2/template.json");
        std::ostringstream text;
        text << file.rdbuf();
        return std::move(text).str();
    }
    Code refusal() {
        auto loaded = load_template(*home_, "t");
        return loaded ? Code::internal : loaded.error().code;
    }

    const ScratchHome home_{"template"};
};

TEST_F(TemplateFilesTest, OfFormat2AreUnderstood) {
    write(golden());
    auto info = load_template(*home_, "t");
    ASSERT_TRUE(info) << info.error().message;
    EXPECT_EQ(info->image, "i");
    EXPECT_EQ(info->memory_bytes, 64u << 20);
    EXPECT_EQ(info->disk_bytes, 2u << 20);
    EXPECT_EQ(info->base, home_->templates() / "t/base.img");
    EXPECT_TRUE(info->sealed);
    ASSERT_TRUE(info->agent);
    EXPECT_EQ(info->agent->last_stream, 3u);
}

TEST_F(TemplateFilesTest, OfOtherFormatsAreRefused) {
    for (const char* format : {"1", "3", "4000"}) {
        std::string text = golden();
        text.replace(text.find("\"format\": 2") + 10, 1, format);
        write(text);
        EXPECT_EQ(refusal(), Code::version_mismatch) << format;
    }
}

TEST_F(TemplateFilesTest, WithAFlippedBitAreRefused) {
    std::string good = golden();
    for (size_t place = 0; place < good.size(); place++) {
        std::string text = good;
        text[place] = static_cast<char>(text[place] ^ 1 << place % 7);
        write(text);
        // White space between words is nobody's; a format's digit is another format.
        auto loaded = load_template(*home_, "t");
        if (loaded)
            EXPECT_TRUE(std::isspace(good[place]) && std::isspace(text[place])) << text;
        else
            EXPECT_TRUE(loaded.error().code == Code::corrupt ||
                        loaded.error().code == Code::version_mismatch)
                << loaded.error().message;
    }
}

TEST_F(TemplateFilesTest, AreLockedByAnyNumberThatCloneOrByOneThatRemoves) {
    EXPECT_EQ(TemplateLock::share(*home_, "none").error().code, Code::not_found);
    EXPECT_EQ(TemplateLock::own(*home_, "none").error().code, Code::not_found);
    {
        auto one = TemplateLock::share(*home_, "t");
        auto other = TemplateLock::share(*home_, "t");
        ASSERT_TRUE(one);
        ASSERT_TRUE(other);
        auto refused = TemplateLock::own(*home_, "t");
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Code::unavailable);
    }
    auto owned = TemplateLock::own(*home_, "t");
    ASSERT_TRUE(owned);
    EXPECT_EQ(TemplateLock::own(*home_, "t").error().code, Code::unavailable);
    EXPECT_EQ(TemplateLock::share(*home_, "t").error().code, Code::unavailable);
    // Removed while somebody waited for it; made again meanwhile.
    stdfs::rename(home_->templates() / "t", home_->templates() / ".removing-t-1");
    EXPECT_EQ(TemplateLock::share(*home_, "t").error().code, Code::not_found);
    stdfs::create_directory(home_->templates() / "t");
    EXPECT_TRUE(TemplateLock::share(*home_, "t"));
}

TEST_F(TemplateFilesTest, ThatNobodyWorksOnAreCleared) {
    auto draft = TemplateDraft::begin(*home_, "mine");
    ASSERT_TRUE(draft);
    stdfs::create_directories(home_->templates() / ".making-dead-1/run");
    stdfs::create_directories(home_->templates() / ".removing-dead-1");
    stdfs::create_directories(home_->templates() / ".making-begun-1");
    ASSERT_TRUE(clear_template_remains(*home_));
    EXPECT_TRUE(stdfs::exists(draft->directory()));
    EXPECT_FALSE(stdfs::exists(home_->templates() / ".making-dead-1"));
    EXPECT_FALSE(stdfs::exists(home_->templates() / ".removing-dead-1"));
    EXPECT_FALSE(stdfs::exists(home_->templates() / ".making-begun-1"));
    EXPECT_TRUE(stdfs::exists(home_->templates() / "t"));
}

}  // namespace
}  // namespace spore
