// Requests about files that are one step, and answered at once.

#include <fcntl.h>
#include <unistd.h>

#include "agent/file_entry.h"
#include "agent/file_path.h"
#include "agent/files.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

Status check_mode(uint32_t mode) {
    if (mode <= kModeMax)
        return {};
    return fail(Code::invalid_argument, "mode " + std::to_string(mode) + ": must be at most " +
                                            std::to_string(kModeMax) + " (07777)");
}

Status make_directory(const wire::MakeDirectory& request) {
    const std::string path = TRY(path_of(request.path()));
    const auto owner = TRY(owner_of(request.user()));
    TRY(check_mode(request.mode()));
    if (request.parents())
        TRY(make_parents(path, owner));
    if (::mkdir(path.c_str(), 0700) != 0) {
        const int error = errno;
        struct stat about = {};
        if (error == EEXIST && request.parents() && ::stat(path.c_str(), &about) == 0 &&
            S_ISDIR(about.st_mode))
            return {};
        return fail_file("make directory", path, error);
    }
    const UniqueFd made(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!made)
        return fail_file("open directory", path);
    if (owner && ::fchown(made.get(), owner->uid, owner->gid) != 0)
        return fail_file("change the owner of", path);
    if (::fchmod(made.get(), request.mode() == 0 ? 0755 : request.mode()) != 0)
        return fail_file("change the mode of", path);
    return {};
}

// `made`, a link beside it, takes the place of what is at `place`, in one step.
Status put_in_place(const Place& place, const std::string& made, const std::string& what,
                    const std::string& path) {
    const int directory = place.directory.get();
    if (::renameat(directory, made.c_str(), directory, place.name.c_str()) == 0)
        return {};
    Status failed = fail_file(what, path);
    ::unlinkat(directory, made.c_str(), 0);
    return failed;
}

Status make_symlink(const wire::Symlink& request) {
    const std::string path = TRY(path_of(request.path()));
    const auto bytes = view(request.target());
    const std::string target(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (target.empty() || target.size() > limits::kPathBytesMax || target.contains('\0')) {
        return fail(Code::invalid_argument,
                    "target of " + std::to_string(target.size()) + " bytes: must be 1 to " +
                        std::to_string(limits::kPathBytesMax) + ", and no NUL among them");
    }
    const Place place = TRY(find_place(path, false));
    const int directory = place.directory.get();
    if (::symlinkat(target.c_str(), directory, place.name.c_str()) == 0)
        return {};
    if (errno != EEXIST || !request.replace())
        return fail_file("make symbolic link", path);
    struct stat about = {};
    if (::fstatat(directory, place.name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISLNK(about.st_mode))
        return fail(Code::already_exists, quoted(path) + ": is there, and no symbolic link");
    const std::string temporary = temporary_name();
    if (::symlinkat(target.c_str(), directory, temporary.c_str()) != 0)
        return fail_file("make symbolic link", path);
    return put_in_place(place, temporary, "replace symbolic link", path);
}

Status make_hard_link(const wire::HardLink& request) {
    const std::string path = TRY(path_of(request.path()));
    const std::string target = TRY(path_of(request.target()));
    const Place from = TRY(find_place(target, false));
    const Place place = TRY(find_place(path, false));
    const int directory = place.directory.get();
    struct stat source = {}, there = {};
    if (::fstatat(from.directory.get(), from.name.c_str(), &source, AT_SYMLINK_NOFOLLOW) != 0)
        return fail_file("link", target);
    if (!S_ISREG(source.st_mode))
        return fail(Code::invalid_argument, quoted(target) + ": is not a plain file");
    const auto link = [&](const std::string& name) {
        return ::linkat(from.directory.get(), from.name.c_str(), directory, name.c_str(), 0) == 0;
    };
    if (link(place.name))
        return {};
    if (errno != EEXIST || !request.replace())
        return fail_file("link", path);
    if (::fstatat(directory, place.name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0) {
        if (S_ISDIR(there.st_mode))
            return fail(Code::already_exists, quoted(path) + ": is there, and a directory");
        // rename(2) does nothing between two names of one file.
        if (there.st_ino == source.st_ino && there.st_dev == source.st_dev)
            return {};
    }
    const std::string temporary = temporary_name();
    if (!link(temporary))
        return fail_file("link", path);
    return put_in_place(place, temporary, "replace", path);
}

Status move(const wire::Move& request) {
    const std::string from = TRY(path_of(request.from()));
    const std::string to = TRY(path_of(request.to()));
    const unsigned flags = request.replace() ? 0 : RENAME_NOREPLACE;
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0)
        return {};
    return fail_file("move " + quoted(from) + " to", to);
}

Status set_attributes(const wire::SetAttributes& request) {
    const std::string path = TRY(path_of(request.path()));
    const auto owner = TRY(owner_of(request.user()));
    if (request.set_mode())
        TRY(check_mode(request.mode()));
    const int flags = request.link() ? AT_SYMLINK_NOFOLLOW : 0;
    struct stat about = {};
    if (::fstatat(AT_FDCWD, path.c_str(), &about, flags) != 0)
        return fail_file("look at", path);
    // The owner first: a new one takes set-user-ID away.
    if (owner && ::fchownat(AT_FDCWD, path.c_str(), owner->uid, owner->gid, flags) != 0)
        return fail_file("change the owner of", path);
    if (request.set_mode()) {
        if (S_ISLNK(about.st_mode)) {
            return fail(Code::invalid_argument,
                        quoted(path) + ": a symbolic link has no mode of its own");
        }
        if (::chmod(path.c_str(), request.mode()) != 0)
            return fail_file("change the mode of", path);
    }
    if (request.mtime_ns() != 0) {
        const timespec times[2] = {{0, UTIME_OMIT}, time_of(request.mtime_ns())};
        if (::utimensat(AT_FDCWD, path.c_str(), times, flags) != 0)
            return fail_file("change the time of", path);
    }
    return {};
}

}  // namespace

Status GrantedStream::take(const wire::Frame& frame) {
    const auto* credit = frame.body_as_Credit();
    if (credit == nullptr)
        return Stream::take(frame);
    if (credit->fd() != 1)
        return fail(Code::invalid_argument,
                    "credit for flow " + std::to_string(credit->fd()) + ": must be 1");
    credit_.add(credit->bytes());
    want_turn();
    return {};
}

Result<std::unique_ptr<Stream>> serve_stat(const Request& request) {
    const auto& stat = request.body<wire::Stat>();
    const std::string path = TRY(path_of(stat.path()));
    struct stat about = {};
    std::string target;
    const bool seen = stat.follow()
                          ? ::fstatat(AT_FDCWD, path.c_str(), &about, AT_NO_AUTOMOUNT) == 0
                          : look_at(AT_FDCWD, path.c_str(), about, target);
    if (!seen)
        return fail_file("look at", path);
    auto& buffer = request.connection.buffer();
    const auto asked = view(stat.path());
    request.connection.send(
        request.stream,
        create_entry(buffer, {reinterpret_cast<const char*>(asked.data()), asked.size()}, about,
                     target));
    request.connection.send(request.stream, wire::CreateDone(buffer));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_move(const Request& request) {
    request.answer(move(request.body<wire::Move>()));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_make_directory(const Request& request) {
    request.answer(make_directory(request.body<wire::MakeDirectory>()));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_symlink(const Request& request) {
    request.answer(make_symlink(request.body<wire::Symlink>()));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_hard_link(const Request& request) {
    request.answer(make_hard_link(request.body<wire::HardLink>()));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_set_attributes(const Request& request) {
    request.answer(set_attributes(request.body<wire::SetAttributes>()));
    return nullptr;
}

}  // namespace spore
