#include "hypervisor/sandbox/template_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/remove_tree.h"
#include "hypervisor/base/sparse_copy.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/template_remains.h"
#include "hypervisor/snapshot/seal.h"

namespace spore {

namespace stdfs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

// What a clone maps or reads piece by piece: the seal is about these. All else is read whole, and
// has a checksum within.
bool is_large(const std::string& name) {
    return name.ends_with(".img");
}

// What a template has when it is published, by name; not the logs of how it came to be.
Result<std::vector<std::string>> files_in(const stdfs::path& directory) {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(directory, error)) {
        if (entry.path().extension() != ".log" && !entry.is_symlink())
            names.push_back(entry.path().filename());
    }
    if (error)
        return fail_errno(directory.string(), error.value());
    std::ranges::sort(names);
    return names;
}

// Enabling fs-verity has the kernel hash holes as well, at some GB/s: not of a file that is almost
// nothing else.
Result<bool> is_worth_verity(const stdfs::path& path) {
    struct stat status = {};
    if (::stat(path.c_str(), &status) != 0)
        return fail_errno(path.string());
    auto bytes = static_cast<uint64_t>(status.st_size);
    return bytes <= 2 * limits::kGiB || bytes <= 4 * allocated_bytes(path);
}

Status copy_base(const stdfs::path& from, const stdfs::path& to, const Progress& progress) {
    progress("copying " + from.string());
    return copy_sparse(from, to, [&](uint64_t done) {
        progress("copying " + from.string() + ": " + std::to_string(done / limits::kMiB) + " MiB");
    });
}

}  // namespace

Result<TemplateDraft> TemplateDraft::begin(const Home& home, const std::string& name) {
    TRY(clear_template_remains(home));
    // Before it is locked, another may take it for what is left of a dead process's.
    constexpr int kTries = 100;
    for (int tries = 0; tries < kTries; tries++) {
        auto directory = home.templates() / (kMakingTemplate + name + TRY(random_name()).substr(2));
        TRY(make_directory(directory));
        auto lock = DirectoryLock::take(directory);
        if (!lock || !lock->holds(directory))
            continue;
        TemplateDraft draft(std::move(*lock));
        draft.directory_ = directory;
        draft.run_ = directory / kTemplateRun;
        TRY(make_directory(draft.run_));
        return draft;
    }
    return fail(Code::unavailable, home.templates().string() + ": others clear every draft");
}

TemplateDraft::TemplateDraft(TemplateDraft&& other) noexcept
    : vmm(std::exchange(other.vmm, {})),
      lock_(std::move(other.lock_)),
      directory_(std::exchange(other.directory_, {})),
      run_(std::exchange(other.run_, {})) {}

TemplateDraft::~TemplateDraft() {
    (void)kill_process(vmm, Clock::now() + std::chrono::seconds(10));
    if (directory_.empty())
        return;
    (void)remove_card_network(directory_);
    (void)remove_tree(directory_);
}

Status TemplateDraft::take_base(const stdfs::path& rootfs, const Progress& progress) {
    stdfs::path base = directory_ / kBaseFile;
    struct stat status = {};
    if (::stat(rootfs.c_str(), &status) != 0)
        return fail_errno(rootfs.string());
    // Another user's file could be written to whatever its mode is here.
    bool linked = status.st_uid == ::geteuid() && ::linkat(AT_FDCWD, rootfs.c_str(), AT_FDCWD,
                                                           base.c_str(), AT_SYMLINK_FOLLOW) == 0;
    return linked ? Status() : copy_base(rootfs, base, progress);
}

Status TemplateDraft::publish(const Home& home, const std::string& name, const Progress& progress) {
    TRY(remove_tree(run_));
    Checksums checksums;
    for (const std::string& file : TRY(files_in(directory_)))
        checksums.push_back(TRY(checksum_file(directory_, file, report_percent(progress))));
    TRY(write_checksums(directory_, checksums));
    TRY(seal_template(directory_, checksums, progress));
    stdfs::path target = home.templates() / name;
    if (::rename(directory_.c_str(), target.c_str()) != 0)
        return fail_errno("template '" + name + "'", errno == ENOTEMPTY ? EEXIST : errno);
    directory_.clear();
    return {};
}

Status seal_template(const stdfs::path& directory, const Checksums& checksums,
                     const Progress& progress) {
    std::vector<std::string> sealed;
    bool verity = true;
    for (const FileChecksums& file : checksums) {
        stdfs::path path = directory / file.name;
        if (verity && TRY(is_worth_verity(path))) {
            progress("sealing " + file.name);
            // Enabling fs-verity takes the right to write, and takes it away.
            if (::chmod(path.c_str(), 0600) != 0)
                return fail_errno(path.string());
            verity = TRY(enable_verity(path));
        }
        if (::chmod(path.c_str(), 0400) != 0)
            return fail_errno(path.string());
        if (is_large(file.name))
            sealed.push_back(file.name);
    }
    stdfs::path sums = directory / kChecksumsFile;
    if (::chmod(sums.c_str(), 0400) != 0)
        return fail_errno(sums.string());
    auto seal = TRY(Seal::of(directory, sealed));
    return seal.write(directory);
}

ChecksumProgress report_percent(const Progress& progress) {
    return [&progress, last = std::string()](const std::string& name, uint64_t done,
                                             uint64_t bytes) mutable {
        std::string line = "checking " + name + ": " + std::to_string(done * 100 / bytes) + "%";
        if (line != last)
            progress(line);
        last = std::move(line);
    };
}

}  // namespace spore
