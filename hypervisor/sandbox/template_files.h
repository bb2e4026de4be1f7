#pragma once

// A template's directory (schema/README.md), and how it comes to be: under a passing name
// (template_remains.h), then, by one rename, as templates/NAME, of which only the seal is ever
// replaced.

#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/template.h"
#include "hypervisor/snapshot/checksums.h"

namespace spore {

// What the disk's layers begin with, the template's own: its image may change and go.
inline constexpr const char* kBaseFile = "base.img";

// A template in the making: its directories and its VM go if it does not get finished.
class TemplateDraft {
  public:
    static Result<TemplateDraft> begin(const Home& home, const std::string& name);
    TemplateDraft(TemplateDraft&& other) noexcept;
    TemplateDraft& operator=(TemplateDraft&&) = delete;
    ~TemplateDraft();

    const std::filesystem::path& directory() const { return directory_; }
    const std::filesystem::path& run() const { return run_; }

    // Gives the template a disk base of its own with `rootfs`'s content: the same file where it is
    // ours and on the same file system (images are replaced, never changed), else a copy.
    Status take_base(const std::filesystem::path& rootfs, const Progress& progress);
    // Writes down its files' checksums, seals them (seal_template) and gives the finished directory
    // its name; only one of two at once can win. Errors: already_exists.
    Status publish(const Home& home, const std::string& name, const Progress& progress);

    ProcessIdentity vmm;

  private:
    explicit TemplateDraft(DirectoryLock lock) : lock_(std::move(lock)) {}
    DirectoryLock lock_;
    std::filesystem::path directory_;
    std::filesystem::path run_;
};

// Makes the files in `directory` that `checksums` are of read-only, by fs-verity too where there
// is that, and seals the large ones. Whoever calls it has just compared them.
Status seal_template(const std::filesystem::path& directory, const Checksums& checksums,
                     const Progress& progress);

// "checking memory.img: 45%", now and then.
ChecksumProgress report_percent(const Progress& progress);

}  // namespace spore
