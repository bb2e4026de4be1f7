#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <deque>
#include <filesystem>

#include "hypervisor/sandbox/agent_copy.h"
#include "hypervisor/sandbox/agent_file_streams.h"
#include "hypervisor/sandbox/copy_links.h"
#include "hypervisor/sandbox/copy_place.h"

namespace spore {

namespace {

// Files whose bytes are sent while others are only asked for, or not yet answered: a small file
// then costs no round trip of its own.
constexpr size_t kFilesAhead = 8;

int64_t time_of_file(const struct stat& about) {
    return int64_t{about.st_mtim.tv_sec} * 1'000'000'000 + about.st_mtim.tv_nsec;
}

struct CloseDirectory {
    void operator()(DIR* directory) const { ::closedir(directory); }
};
using OpenDirectory = std::unique_ptr<DIR, CloseDirectory>;

// One tree or file on its way into the guest.
class CopyIn {
  public:
    CopyIn(const std::shared_ptr<AgentConnection>& connection, const CopyOptions& options)
        : connection_(connection), files_(connection), options_(options), report_(options) {}

    Result<CopyCounts> run(const std::string& from, const std::string& to) {
        UniqueFd source(::open(from.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
        struct stat about = {};
        if (!source || ::fstat(source.get(), &about) != 0)
            return fail_errno("'" + from + "'");
        std::string name = std::filesystem::path(from).lexically_normal().filename();
        if (name.empty() && from.back() == '/' && from.size() > 1)
            name = std::filesystem::path(from).parent_path().filename();
        const bool contents = from.ends_with("/.") || name.empty() || name == "." || name == "..";
        const std::string target =
            TRY(place_in_guest(files_, to, contents ? "" : name, options_.deadline));
        if (S_ISDIR(about.st_mode))
            TRY(copy_tree(std::move(source), about, target, contents));
        else if (S_ISREG(about.st_mode))
            TRY(begin_file(std::move(source), about, target));
        else
            return fail(Code::invalid_argument, "'" + from + "': is no file and no directory");
        TRY(feed_all(0));
        TRY(finish_all(0));
        TRY(set_directories());
        return report_.counts;
    }

  private:
    struct Uploading {
        FileUpload upload;
        UniqueFd file;
        std::string path;
    };
    struct Level {
        OpenDirectory directory;
        std::string path;  // in the guest
    };
    struct Attributes {
        std::string path;
        uint32_t mode;
        int64_t mtime_ns;
    };

    Status copy_tree(UniqueFd source, const struct stat& about, const std::string& target,
                     bool contents) {
        TRY(enter(std::move(source), about, target, contents));
        while (!levels_.empty()) {
            errno = 0;
            const dirent* entry = ::readdir(levels_.back().directory.get());
            if (entry == nullptr && errno != 0)
                return fail_errno("read a directory for '" + levels_.back().path + "'");
            if (entry == nullptr)
                levels_.pop_back();
            else if (std::string_view(entry->d_name) != "." &&
                     std::string_view(entry->d_name) != "..")
                TRY(copy_entry(entry->d_name));
        }
        return {};
    }

    Status copy_entry(const std::string& name) {
        const int directory = ::dirfd(levels_.back().directory.get());
        const std::string target = levels_.back().path + "/" + name;
        struct stat about = {};
        if (::fstatat(directory, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0)
            return report_.skip(target, std::strerror(errno));
        if (S_ISLNK(about.st_mode))
            return copy_link(directory, name, target);
        if (!S_ISDIR(about.st_mode) && !S_ISREG(about.st_mode))
            return report_.skip(target, "is no file, directory or symbolic link");
        UniqueFd file(::openat(directory, name.c_str(),
                               O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
        if (!file || ::fstat(file.get(), &about) != 0)
            return fail_errno("open what is to be '" + target + "'");
        if (S_ISDIR(about.st_mode))
            return enter(std::move(file), about, target, false);
        if (S_ISREG(about.st_mode)) {
            if (TRY(link_to_first(about, target)))
                return {};
            return begin_file(std::move(file), about, target);
        }
        return report_.skip(target, "is no file, directory or symbolic link");
    }

    // One that is there is taken. Below the target itself a symbolic link to one is not: it would
    // lead out of it.
    Status make_directory(const std::string& target) {
        const bool is_root = levels_.empty();
        Status made = files_.make_directory(target, 0, is_root, options_.user, options_.deadline);
        if (made || is_root || made.error().code != Code::already_exists)
            return made;
        const FileInfo there = TRY(files_.stat(target, false, options_.deadline));
        if (there.kind != FileKind::directory)
            return fail(Code::already_exists, "'" + target + "': is there, and no directory");
        return {};
    }

    Status enter(UniqueFd source, const struct stat& about, const std::string& target,
                 bool contents) {
        // Open to us until all is in it. It must be there before anything is asked for in it.
        TRY(make_directory(target));
        if (!contents)
            directories_.push_back({target, about.st_mode & 07777, time_of_file(about)});
        OpenDirectory directory(::fdopendir(source.get()));
        if (!directory)
            return fail_errno("read what is to be '" + target + "'");
        (void)source.release();
        levels_.push_back({std::move(directory),
                           target.ends_with('/') ? target.substr(0, target.size() - 1) : target});
        ++report_.counts.directories;
        return {};
    }

    // Whether it is now another name of a file that was copied before.
    Result<bool> link_to_first(const struct stat& about, const std::string& target) {
        if (about.st_nlink < 2)
            return false;
        const std::string* first = links_.find_or_add(about.st_dev, about.st_ino, target);
        if (first == nullptr)
            return false;
        TRY(feed_all(0));  // it may be on its way
        TRY(finish_all(0));
        return CopyLinks::make(files_, target, *first, report_, options_.deadline);
    }

    Status copy_link(int directory, const std::string& name, const std::string& target) {
        std::string words(PATH_MAX, '\0');
        const ssize_t size = ::readlinkat(directory, name.c_str(), words.data(), words.size());
        if (size < 0)
            return report_.skip(target, std::strerror(errno));
        words.resize(static_cast<size_t>(size));
        TRY(files_.make_symlink(target, words, true, options_.deadline));
        ++report_.counts.links;
        return {};
    }

    Status begin_file(UniqueFd file, const struct stat& about, const std::string& target) {
        auto next = std::make_unique<Uploading>(
            Uploading{FileUpload(*connection_, options_.deadline), std::move(file), target});
        const FileWriteSpec spec = {.path = target,
                                    .mode = about.st_mode & 07777,
                                    .parents = levels_.empty(),
                                    .user = options_.user,
                                    .mtime_ns = time_of_file(about),
                                    .replace_link = !levels_.empty()};
        TRY(files_.make_way(spec, options_.deadline));
        TRY(next->upload.begin(spec));
        begun_.push_back(std::move(next));
        return feed_all(kFilesAhead);
    }

    // Sends the bytes of all but the last `left` that were asked for.
    Status feed_all(size_t left) {
        while (begun_.size() > left) {
            auto first = std::move(begun_.front());
            begun_.pop_front();
            const auto source = [&](std::span<std::byte> room) -> Result<size_t> {
                return report_.read(first->file.get(), room,
                                    "read what is to be '" + first->path + "'");
            };
            TRY(first->upload.feed(source, -1));
            first->file.reset();
            fed_.push_back(std::move(first));
            TRY(finish_all(kFilesAhead));
        }
        return {};
    }

    Status finish_all(size_t left) {
        while (fed_.size() > left) {
            TRY(fed_.front()->upload.finish());
            fed_.pop_front();
            ++report_.counts.files;
            report_.progress();
        }
        return {};
    }

    // The deepest first, when nothing more changes their times.
    Status set_directories() {
        std::deque<AgentStream> asked;
        const auto answered = [&](size_t left) -> Status {
            while (asked.size() > left) {
                TRY(asked.front().receive_done(options_.deadline));
                asked.pop_front();
            }
            return {};
        };
        for (; !directories_.empty(); directories_.pop_back()) {
            const Attributes& each = directories_.back();
            AgentStream& stream = asked.emplace_back(connection_->open());
            stream.set_deadline(options_.deadline);
            auto& buffer = stream.buffer();
            const auto path = bytes_of(buffer, each.path);
            TRY(stream.send(
                wire::CreateSetAttributes(buffer, path, false, true, each.mode, 0, each.mtime_ns)));
            TRY(answered(kFilesAhead));
        }
        return answered(0);
    }

    std::shared_ptr<AgentConnection> connection_;
    AgentFiles files_;
    const CopyOptions& options_;
    CopyReport report_;
    CopyLinks links_;
    std::vector<Level> levels_;
    std::vector<Attributes> directories_;
    std::deque<std::unique_ptr<Uploading>> begun_, fed_;
};

}  // namespace

Result<CopyCounts> copy_in(const std::shared_ptr<AgentConnection>& connection,
                           const std::string& from, const std::string& to,
                           const CopyOptions& options) {
    return CopyIn(connection, options).run(from, to);
}

}  // namespace spore
