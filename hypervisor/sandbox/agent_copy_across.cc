// UNTRUSTED BYTES: what one guest lists becomes paths in another (check_guest_path, and every entry
// has to be in a directory that was made here). Tested with a guest that wants out:
// tests/unit/hypervisor/sandbox/agent_copy_test.cc.

#include <sys/socket.h>

#include <filesystem>
#include <thread>

#include "hypervisor/sandbox/agent_copy.h"
#include "hypervisor/sandbox/copy_links.h"
#include "hypervisor/sandbox/copy_place.h"
#include "hypervisor/sandbox/copy_target.h"

namespace spore {

namespace {

// One tree or file on its way from one guest to another: no file is on this host.
class CopyAcross {
  public:
    CopyAcross(const std::shared_ptr<AgentConnection>& source,
               const std::shared_ptr<AgentConnection>& target, const CopyOptions& options)
        : from_(source), to_(target), options_(options), report_(options) {}

    Result<CopyCounts> run(const std::string& from, const std::string& to) {
        FileInfo source = TRY(from_.stat(from, true, options_.deadline));
        const std::string name = last_name(from);
        const bool contents = from.ends_with("/.") || name.empty() || name == "..";
        root_ = TRY(place_in_guest(to_, to, contents ? "" : name, options_.deadline));
        if (source.kind == FileKind::directory)
            TRY(copy_tree(from, std::move(source), contents));
        else if (source.kind == FileKind::file)
            TRY(copy_file(from, root_, source, true));
        else
            return fail(Code::invalid_argument, "'" + from + "': is no file and no directory");
        return report_.counts;
    }

  private:
    static std::string last_name(std::string path) {
        while (path.ends_with('/'))
            path.pop_back();
        const std::string name = path.substr(path.rfind('/') + 1);
        return name == "." ? "" : name;
    }

    Status copy_tree(const std::string& from, FileInfo&& source, bool contents) {
        TRY(to_.make_directory(root_, 0, true, options_.user, options_.deadline));
        ++report_.counts.directories;
        const std::string prefix = from.ends_with('/') ? from : from + "/";
        const bool more = TRY(from_.list(
            {.path = from, .recursive = true},
            [&](FileInfo&& info) { return take(prefix, std::move(info)); }, options_.deadline));
        if (more)
            TRY(report_.skip(from, "has names that are too long"));
        TRY(leave(""));
        return contents ? Status() : finish_directory_at(root_, source);
    }

    Status take(const std::string& prefix, FileInfo&& info) {
        TRY(check_guest_path(info.path));
        TRY(leave(info.path));
        const size_t slash = info.path.rfind('/');
        const std::string parent = slash == std::string::npos ? "" : info.path.substr(0, slash);
        // Else it could be below a symbolic link that it has listed before.
        if (parent != (open_.empty() ? "" : open_.back().path))
            return fail(Code::corrupt, "'" + info.path + "': is listed outside of its directory");
        const std::string target = path_of(info.path);
        switch (info.kind) {
            case FileKind::directory:
                TRY(make_directory_at(target));
                open_.push_back(std::move(info));
                return {};
            case FileKind::symlink:
                TRY(to_.make_symlink(target, info.target, true, options_.deadline));
                ++report_.counts.links;
                return {};
            case FileKind::file:
                return take_file(prefix + info.path, target, info);
            default:
                return report_.skip(prefix + info.path, "is no file, directory or symbolic link");
        }
    }

    std::string path_of(const std::string& path) const {
        return root_.ends_with('/') ? root_ + path : root_ + "/" + path;
    }

    // Directories that `path` is not in get nothing more.
    Status leave(const std::string& path) {
        while (!open_.empty() && !path.starts_with(open_.back().path + "/")) {
            TRY(finish_directory_at(path_of(open_.back().path), open_.back()));
            open_.pop_back();
        }
        return {};
    }

    // One that is there is taken; a symbolic link to one is not, whoever has made it.
    Status make_directory_at(const std::string& target) {
        TRY(to_.make_directory(target, 0, true, options_.user, options_.deadline));
        const FileInfo made = TRY(to_.stat(target, false, options_.deadline));
        if (made.kind != FileKind::directory)
            return fail(Code::already_exists, "'" + target + "': is there, and no directory");
        ++report_.counts.directories;
        return {};
    }

    Status finish_directory_at(const std::string& target, const FileInfo& source) {
        return to_.set_attributes(
            {.path = target, .mode = source.mode & kCopiedModeMax, .mtime_ns = source.mtime_ns},
            options_.deadline);
    }

    Status take_file(const std::string& from, const std::string& target, const FileInfo& info) {
        const std::string* const first =
            info.links < 2 ? nullptr : links_.find_or_add(info.device, info.inode, target);
        if (first != nullptr &&
            TRY(CopyLinks::make(to_, target, *first, report_, options_.deadline)))
            return {};
        const Status copied = copy_file(from, target, info, false);
        // A guest that lives makes and removes files while its directories are read.
        if (!copied && source_gone_)
            return report_.skip(from, "went while it was copied");
        return copied;
    }

    // Read by a thread and written by this one, through a socket between them.
    Status copy_file(const std::string& from, const std::string& target, const FileInfo& info,
                     bool parents) {
        int ends[2] = {-1, -1};
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
            return fail_errno("socketpair");
        UniqueFd in(ends[0]), out(ends[1]);
        Status read_all;
        source_gone_ = false;
        std::jthread reader([&] {
            read_all = read_into(out.get(), from);
            out.reset();  // the end, for the other side
        });
        const auto source = [&](std::span<std::byte> room) -> Result<size_t> {
            const size_t count = TRY(report_.read(in.get(), room, "read '" + from + "'"));
            if (count > 0)
                return count;
            reader.join();
            source_gone_ = !read_all && read_all.error().code == Code::not_found;
            if (!read_all)
                return std::unexpected(read_all.error());
            return size_t{0};
        };
        const auto written = to_.write({.path = target,
                                        .mode = info.mode & kCopiedModeMax,
                                        .parents = parents,
                                        .user = options_.user,
                                        .mtime_ns = info.mtime_ns,
                                        .replace_link = !parents},
                                       source, options_.deadline);
        in.reset();  // so that the reader ends where writing has failed
        if (!written)
            return std::unexpected(written.error());
        ++report_.counts.files;
        report_.progress();
        return {};
    }

    Status read_into(int socket, const std::string& from) {
        const auto sink = [socket](std::span<const std::byte> bytes) -> Status {
            while (!bytes.empty()) {
                const ssize_t count = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
                if (count < 0 && errno == EINTR)
                    continue;
                if (count < 0)
                    return fail_errno("pass on a file");
                bytes = bytes.subspan(static_cast<size_t>(count));
            }
            return {};
        };
        TRY(from_.read({.path = from}, sink, options_.deadline));
        return {};
    }

    AgentFiles from_, to_;
    const CopyOptions& options_;
    CopyReport report_;
    CopyLinks links_;
    std::string root_;            // in the target
    std::vector<FileInfo> open_;  // directories on the way to the last entry
    bool source_gone_ = false;
};

}  // namespace

Result<CopyCounts> copy_across(const std::shared_ptr<AgentConnection>& source,
                               const std::string& from,
                               const std::shared_ptr<AgentConnection>& target,
                               const std::string& to, const CopyOptions& options) {
    return CopyAcross(source, target, options).run(from, to);
}

}  // namespace spore
