#include "agent/file_write.h"

#include <fcntl.h>
#include <unistd.h>

#include <climits>

#include "agent/files.h"
#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

constexpr uint32_t kModeUsual = 0644;

}  // namespace

FileWriter::~FileWriter() {
    if (!temporary_.empty())
        ::unlinkat(place_.directory.get(), temporary_.c_str(), 0);
}

Status FileWriter::start(const wire::FileWrite& request) {
    path_ = TRY(path_of(request.path()));
    owner_ = TRY(owner_of(request.user()));
    if (request.write() > wire::WriteMode::MAX)
        return fail(Code::invalid_argument, "FileWrite.write: is not known to this agent");
    if (request.mode() > kModeMax || request.offset() > INT64_MAX)
        return fail(Code::invalid_argument, "FileWrite: its mode or offset is too large");
    if (path_.back() == '/')
        return fail(Code::invalid_argument, quoted(path_) + ": is a directory");
    mode_ = request.write();
    mtime_ns_ = request.mtime_ns();
    sync_ = request.sync();
    offset_ = request.offset();
    if (request.parents() && mode_ != wire::WriteMode::in_place)
        TRY(make_parents(path_, owner_));
    TRY(check_place(request));
    TRY(fresh() ? open_fresh() : open_present());
    credit_ = limits::kFileCreditBytes;
    send(wire::CreateWriteReady(connection_.buffer(), static_cast<uint32_t>(credit_)));
    return {};
}

// What is there now, and what a new file takes over from it.
Status FileWriter::check_place(const wire::FileWrite& request) {
    const bool replaces_link = request.replace_link() && mode_ == wire::WriteMode::replace;
    place_ = TRY(find_place(path_, mode_ != wire::WriteMode::create && !replaces_link));
    struct stat about = {};
    created_ =
        ::fstatat(place_.directory.get(), place_.name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0;
    if (created_ && errno != ENOENT)
        return fail_file("write", path_);
    if (!created_ && mode_ == wire::WriteMode::create)
        return fail_file("create", path_, EEXIST);
    if (!created_ && S_ISLNK(about.st_mode) && replaces_link)
        about = {.st_mode = S_IFREG | kModeUsual};  // nothing of a link is taken over
    if (!created_ && !S_ISREG(about.st_mode)) {
        return fail(Code::invalid_argument,
                    quoted(path_) +
                        (S_ISDIR(about.st_mode) ? ": is a directory" : ": is not a plain file"));
    }
    permissions_ = request.mode();
    if (permissions_ == 0)
        permissions_ = created_ ? kModeUsual : about.st_mode & kModeMax;
    if (!created_ && !owner_)
        owner_ = Owner{about.st_uid, about.st_gid};
    return {};
}

Status FileWriter::open_fresh() {
    const int directory = place_.directory.get();
    file_ = UniqueFd(::openat(directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
    if (file_)
        return {};
    // Not every file system has it (open(2), O_TMPFILE).
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
        return fail_file("create a file beside", path_);
    temporary_ = temporary_name();
    file_ = UniqueFd(::openat(directory, temporary_.c_str(),
                              O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (file_)
        return {};
    temporary_.clear();
    return fail_file("create a file beside", path_);
}

Status FileWriter::open_present() {
    const bool append = mode_ == wire::WriteMode::append;
    if (created_ && !append)
        return fail_file("write", path_, ENOENT);
    const int flags = O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC |
                      (append ? O_APPEND : 0) | (created_ ? O_CREAT : 0);
    file_ = UniqueFd(::openat(place_.directory.get(), place_.name.c_str(), flags, 0600));
    struct stat about = {};
    if (!file_ || ::fstat(file_.get(), &about) != 0)
        return fail_file("write", path_);
    if (!S_ISREG(about.st_mode))  // it was another one a moment ago
        return fail(Code::invalid_argument, quoted(path_) + ": is not a plain file");
    if (!created_)
        return {};
    if (owner_ && ::fchown(file_.get(), owner_->uid, owner_->gid) != 0)
        return fail_file("change the owner of", path_);
    if (::fchmod(file_.get(), permissions_) != 0)
        return fail_file("change the mode of", path_);
    return {};
}

Status FileWriter::take(const wire::Frame& frame) {
    const auto* data = frame.body_as_FileData();
    if (data == nullptr)
        return Stream::take(frame);
    const auto bytes = view(data->bytes());
    if (bytes.size() > credit_ || !receiving_) {
        return fail(Code::invalid_argument, "file data of " + std::to_string(bytes.size()) +
                                                " bytes: above the credit of " +
                                                std::to_string(credit_) + " or after its end");
    }
    credit_ -= bytes.size();
    if (const Status written = write(bytes); !written) {
        finish(written.error());
        return {};
    }
    receiving_ = !data->eof();
    if (receiving_)
        grant(bytes.size());
    else
        end_of_data();
    return {};
}

Status FileWriter::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t count =
            mode_ == wire::WriteMode::in_place
                ? ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset_))
                : ::write(file_.get(), bytes.data(), bytes.size());
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail_file("write byte " + std::to_string(written_) + " of", path_);
        bytes = bytes.subspan(static_cast<size_t>(count));
        offset_ += static_cast<uint64_t>(count);
        written_ += static_cast<uint64_t>(count);
    }
    return {};
}

// In portions: fewer frames, and the client never runs dry.
void FileWriter::grant(size_t bytes) {
    to_grant_ += bytes;
    if (to_grant_ < limits::kFileCreditBytes / 2)
        return;
    send(wire::CreateCredit(connection_.buffer(), 0, static_cast<uint32_t>(to_grant_)));
    credit_ += to_grant_;
    to_grant_ = 0;
}

void FileWriter::end_of_data() {
    if (const Status applied = apply_attributes(); !applied)
        return finish(applied.error());
    if (!sync_)
        return name_it();
    const Status started =
        file_sync_.start(server_.poller(), file_.get(), false, [this](const Status& synced) {
            if (done())  // cancelled meanwhile
                return;
            if (synced)
                name_it();
            else
                finish(Error(synced.error()).within(quoted(path_)));
        });
    if (!started)
        finish(started.error());
}

Status FileWriter::apply_attributes() {
    // The owner first: a new one takes set-user-ID away.
    if (fresh() && owner_ && ::fchown(file_.get(), owner_->uid, owner_->gid) != 0)
        return fail_file("change the owner of", path_);
    if (fresh() && ::fchmod(file_.get(), permissions_) != 0)
        return fail_file("change the mode of", path_);
    if (mtime_ns_ == 0)
        return {};
    const timespec times[2] = {{0, UTIME_OMIT}, time_of(mtime_ns_)};
    if (::futimens(file_.get(), times) != 0)
        return fail_file("change the time of", path_);
    return {};
}

void FileWriter::name_it() {
    const Status linked = fresh() ? link_fresh() : Status();
    if (!linked)
        return finish(linked.error());
    if (!sync_ || !(fresh() || created_))
        return answer();
    const Status started = directory_sync_.start(
        server_.poller(), place_.directory.get(), true, [this](const Status& synced) {
            if (done())
                return;
            if (synced)
                answer();
            else
                finish(Error(synced.error()).within("directory of " + quoted(path_)));
        });
    if (!started)
        finish(started.error());
}

// Gives the whole new file its name, in one step.
Status FileWriter::link_fresh() {
    const int directory = place_.directory.get();
    const char* name = place_.name.c_str();
    const bool create = mode_ == wire::WriteMode::create;
    const auto link = [&](const char* as) {
        if (::linkat(file_.get(), "", directory, as, AT_EMPTY_PATH) == 0)
            return true;
        if (errno != ENOENT)
            return false;
        // Without CAP_DAC_READ_SEARCH (linkat(2)).
        const std::string open_file = "/proc/self/fd/" + std::to_string(file_.get());
        return ::linkat(AT_FDCWD, open_file.c_str(), directory, as, AT_SYMLINK_FOLLOW) == 0;
    };
    if (temporary_.empty()) {
        if ((create || created_) && link(name))
            return {};
        if (create)
            return fail_file("create", path_);
        std::string temporary = temporary_name();
        if (!link(temporary.c_str()))
            return fail_file("link a file beside", path_);
        temporary_ = std::move(temporary);
    }
    const unsigned flags = create ? RENAME_NOREPLACE : 0;
    if (::renameat2(directory, temporary_.c_str(), directory, name, flags) != 0)
        return fail_file(create ? "create" : "replace", path_);
    temporary_.clear();
    return {};
}

void FileWriter::answer() {
    struct stat about = {};
    if (::fstat(file_.get(), &about) != 0)
        return finish(fail_file("look at", path_).error());
    finish(wire::CreateDone(connection_.buffer(), static_cast<uint64_t>(about.st_size)));
}

Result<std::unique_ptr<Stream>> serve_file_write(const Request& request) {
    auto writer = std::make_unique<FileWriter>(request.connection, request.server, request.stream);
    TRY(writer->start(request.body<wire::FileWrite>()));
    return writer;
}

}  // namespace spore
