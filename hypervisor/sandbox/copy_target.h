#pragma once

// A directory of this host into which a guest's files are put.

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

constexpr uint32_t kCopiedModeMax = 0777;  // who is somebody in a guest is nobody elsewhere

// Where a name is to be: in a directory that is open, and so cannot be led elsewhere.
struct TargetPlace {
    std::shared_ptr<UniqueFd> directory;
    std::string name;
};

// Whether a path that a guest gives, from the directory that it has listed, leads nowhere else.
// Errors: invalid_argument (a name that is none: empty, "..", a NUL).
Status check_guest_path(const std::string& path);

// Under it names from a guest become files. UNTRUSTED BYTES: a path is taken apart here, and every
// step of it is below the directory and through no symbolic link, whoever has made one there.
class CopyTarget {
  public:
    explicit CopyTarget(UniqueFd root) : root_(std::make_shared<UniqueFd>(std::move(root))) {}

    // Errors: invalid_argument (a name that is none: empty, "..", a NUL); of the way: not_found,
    // already_exists (something else than a directory is on it).
    Result<TargetPlace> place(const std::string& path);

  private:
    std::shared_ptr<UniqueFd> root_;
    std::string last_path_;  // entries of one directory come together
    std::shared_ptr<UniqueFd> last_;
};

// Makes a directory there, open to its owner alone; one that is there is taken.
Status put_directory(const TargetPlace& place);
// Sets what it is to have in the end.
Status finish_directory(const TargetPlace& place, uint32_t mode, int64_t mtime_ns);
// A symbolic link, in place of any file or link there.
Status put_symlink(const TargetPlace& place, const std::string& target);

// Another name of the plain file at `first`, in place of any file or link there. Errors: whatever
// keeps it from being one; it can be copied instead.
Status put_hard_link(const TargetPlace& first, const TargetPlace& place);

// A new file, in place of any file or link there, and there only when it is whole.
class PutFile {
  public:
    static Result<PutFile> begin(const TargetPlace& place);
    PutFile(PutFile&&) noexcept = default;
    PutFile& operator=(PutFile&&) = delete;
    ~PutFile();

    // Zeros become holes.
    Status write(std::span<const std::byte> bytes);
    Status finish(uint32_t mode, int64_t mtime_ns);

  private:
    PutFile(TargetPlace place, UniqueFd file, std::string temporary)
        : place_(std::move(place)), file_(std::move(file)), temporary_(std::move(temporary)) {}

    TargetPlace place_;
    UniqueFd file_;
    std::string temporary_;
    off_t size_ = 0;
};

}  // namespace spore
