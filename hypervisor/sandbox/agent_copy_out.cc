#include <fcntl.h>

#include <deque>
#include <filesystem>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_copy.h"
#include "hypervisor/sandbox/agent_file_streams.h"
#include "hypervisor/sandbox/copy_names.h"
#include "hypervisor/sandbox/copy_report.h"
#include "hypervisor/sandbox/copy_target.h"

namespace spore {

namespace {

// Files that are asked for while one is received: a small file then costs no round trip of its own.
constexpr size_t kReadsAhead = 8;

// A path that is to exist, split where its last name begins.
struct HostPath {
    std::string directory;
    std::string name;
};

HostPath split(const std::string& path) {
    std::string whole = path;
    while (whole.size() > 1 && whole.ends_with('/'))
        whole.pop_back();
    const size_t slash = whole.rfind('/');
    if (slash == std::string::npos)
        return {".", whole};
    return {slash == 0 ? "/" : whole.substr(0, slash), whole.substr(slash + 1)};
}

bool is_name(const std::string& name) {
    return !name.empty() && name != "." && name != "..";
}

// One tree or file on its way out of the guest.
class CopyOut {
  public:
    CopyOut(const std::shared_ptr<AgentConnection>& connection, const CopyOptions& options)
        : connection_(connection), files_(connection), options_(options), report_(options) {}

    Result<CopyCounts> run(const std::string& from, const std::string& to) {
        const FileInfo source = TRY(files_.stat(from, true, options_.deadline));
        const std::string name = split(from).name;
        const bool contents = from.ends_with("/.") || !is_name(name);
        std::string target = to;
        if (std::error_code error;
            !contents && (to.ends_with('/') || std::filesystem::is_directory(to, error)))
            target = (to.ends_with('/') ? to : to + "/") + name;
        const bool tree = source.kind == FileKind::directory;
        if (!tree && source.kind != FileKind::file)
            return fail(Code::invalid_argument, "'" + from + "': is no file and no directory");
        if (tree && contents) {
            TRY(copy_contents(from, target));
            return report_.counts;
        }
        const HostPath path = split(target);
        if (!is_name(path.name))
            return fail(Code::invalid_argument, "'" + to + "': names no file to be made");
        CopyTarget beside(TRY(open_directory(path.directory)));
        const TargetPlace place = TRY(beside.place(path.name));
        TRY(tree ? copy_directory(from, source, place) : copy_file(from, place));
        return report_.counts;
    }

  private:
    struct Item {
        std::unique_ptr<FileDownload> download;  // none: a directory that nothing more comes into
        TargetPlace place;
        std::string path;
        uint32_t mode = 0;
        int64_t mtime_ns = 0;
    };

    static Result<UniqueFd> open_directory(const std::string& path) {
        UniqueFd directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!directory)
            return fail_errno("directory '" + path + "'");
        return directory;
    }

    Status copy_file(const std::string& from, const TargetPlace& place) {
        struct stat there = {};
        if (::fstatat(place.directory->get(), place.name.c_str(), &there, AT_SYMLINK_NOFOLLOW) ==
                0 &&
            !S_ISREG(there.st_mode) && !S_ISLNK(there.st_mode) && !S_ISDIR(there.st_mode)) {
            return fail(Code::invalid_argument,
                        "'" + place.name +
                            "': is a device or a pipe, and would be replaced ('-' "
                            "is standard output)");
        }
        TRY(ask_for(from, place));
        return drain(0);
    }

    Status copy_directory(const std::string& from, const FileInfo& source,
                          const TargetPlace& place) {
        TRY(put_directory(place));
        UniqueFd directory(::openat(place.directory->get(), place.name.c_str(),
                                    O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!directory)
            return fail_errno("open '" + place.name + "'");
        ++report_.counts.directories;
        TRY(copy_list(from, CopyTarget(std::move(directory))));
        return finish_directory(place, source.mode, source.mtime_ns);
    }

    Status copy_contents(const std::string& from, const std::string& to) {
        if (::mkdir(to.c_str(), 0755) != 0 && errno != EEXIST)
            return fail_errno("make directory '" + to + "'");
        ++report_.counts.directories;
        return copy_list(from, CopyTarget(TRY(open_directory(to))));
    }

    Status copy_list(const std::string& from, CopyTarget target) {
        const std::string prefix = from.ends_with('/') ? from : from + "/";
        const bool more = TRY(files_.list(
            {.path = from, .recursive = true},
            [&](FileInfo&& info) { return take(prefix, std::move(info), target); },
            options_.deadline));
        if (more)
            TRY(report_.skip(from, "has names that are too long"));
        TRY(leave(""));
        return drain(0);
    }

    Status take(const std::string& prefix, FileInfo&& info, CopyTarget& target) {
        TRY(leave(info.path));
        TargetPlace place = TRY(target.place(info.path));
        switch (info.kind) {
            case FileKind::directory:
                TRY(put_directory(place));
                open_.push_back({nullptr, std::move(place), info.path, info.mode, info.mtime_ns});
                ++report_.counts.directories;
                return {};
            case FileKind::symlink:
                TRY(put_symlink(place, info.target));
                ++report_.counts.links;
                return {};
            case FileKind::file:
                return take_file(prefix, info, std::move(place), target);
            default:
                return report_.skip(prefix + info.path, "is no file, directory or symbolic link");
        }
    }

    Status take_file(const std::string& prefix, const FileInfo& info, TargetPlace place,
                     CopyTarget& target) {
        const std::string* first =
            info.links < 2 ? nullptr : names_.find_or_add(info.device, info.inode, info.path);
        if (first == nullptr) {
            TRY(ask_for(prefix + info.path, std::move(place)));
            return drain(kReadsAhead);
        }
        TRY(drain(0));  // it may be on its way
        const auto there = target.place(*first);
        const Status linked =
            there ? put_hard_link(*there, place) : Status(std::unexpected(there.error()));
        if (linked) {
            ++report_.counts.links;
            return {};
        }
        // It went meanwhile, or this host's file system has no such thing.
        report_.separate(prefix + info.path, linked.error().message);
        TRY(ask_for(prefix + info.path, std::move(place)));
        return drain(0);
    }

    // Directories that `path` is not in get nothing more.
    Status leave(const std::string& path) {
        while (!open_.empty() && !path.starts_with(open_.back().path + "/")) {
            items_.push_back(std::move(open_.back()));
            open_.pop_back();
            TRY(drain(kReadsAhead));
        }
        return {};
    }

    Status ask_for(const std::string& from, TargetPlace place) {
        auto download = std::make_unique<FileDownload>(*connection_, limits::kFileCreditBytes,
                                                       options_.deadline);
        TRY(download->begin({.path = from}));
        items_.push_back({std::move(download), std::move(place), from});
        return {};
    }

    // In order, until `left` are left: a directory then comes after all that is in it.
    Status drain(size_t left) {
        while (items_.size() > left) {
            Item item = std::move(items_.front());
            items_.pop_front();
            if (item.download)
                TRY(receive(item));
            else
                TRY(finish_directory(item.place, item.mode, item.mtime_ns));
        }
        return {};
    }

    Status receive(Item& item) {
        PutFile file = TRY(PutFile::begin(item.place));
        const auto sink = [&](std::span<const std::byte> bytes) -> Status {
            report_.counts.bytes += bytes.size();
            if (options_.bytes_max != 0 && report_.counts.bytes > options_.bytes_max) {
                return fail(
                    Code::resource_exhausted,
                    "copy: above the limit of " + std::to_string(options_.bytes_max) + " bytes");
            }
            TRY(file.write(bytes));
            report_.progress();
            return {};
        };
        const auto info = item.download->finish(sink);
        // A guest that lives makes and removes files while its directories are read.
        if (!info && info.error().code == Code::not_found && !alone())
            return report_.skip(item.path, "went while it was copied");
        if (!info)
            return std::unexpected(info.error());
        TRY(file.finish(info->mode, info->mtime_ns));
        ++report_.counts.files;
        report_.progress();
        return {};
    }

    bool alone() const { return report_.counts.directories == 0; }

    std::shared_ptr<AgentConnection> connection_;
    AgentFiles files_;
    const CopyOptions& options_;
    CopyReport report_;
    CopyNames names_;
    std::vector<Item> open_;  // directories on the way to the last entry
    std::deque<Item> items_;  // asked for, or due
};

}  // namespace

Result<CopyCounts> copy_out(const std::shared_ptr<AgentConnection>& connection,
                            const std::string& from, const std::string& to,
                            const CopyOptions& options) {
    return CopyOut(connection, options).run(from, to);
}

}  // namespace spore
