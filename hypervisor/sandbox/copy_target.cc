#include "hypervisor/sandbox/copy_target.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace spore {

namespace {

std::unexpected<Error> fail_at(std::string_view what, const std::string& name, int error = errno) {
    auto failed = fail_errno(std::string(what) + " '" + name + "'", error);
    if (error == ELOOP || error == ENOTDIR || error == EISDIR || error == EXDEV ||
        error == ENOTEMPTY)
        failed.error().code = Code::already_exists;
    return failed;
}

UniqueFd open_below(int directory, const std::string& path) {
    open_how how = {};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    return UniqueFd(
        static_cast<int>(::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how))));
}

std::string fresh_name() {
    uint64_t random = 0;
    (void)!::getrandom(&random, sizeof(random), 0);
    return ".spore-" + std::to_string(random);
}

timespec time_from(int64_t ns) {
    constexpr int64_t kSecond = 1'000'000'000;
    const int64_t part = (ns % kSecond + kSecond) % kSecond;
    return {.tv_sec = (ns - part) / kSecond, .tv_nsec = part};
}

Status set_attributes(int fd, const std::string& name, uint32_t mode, int64_t mtime_ns) {
    const timespec times[2] = {{0, UTIME_OMIT}, time_from(mtime_ns)};
    if (::fchmod(fd, mode & kCopiedModeMax) != 0 || ::futimens(fd, times) != 0)
        return fail_at("set mode and time of", name);
    return {};
}

}  // namespace

Status check_guest_path(const std::string& path) {
    size_t begin = 0;
    while (begin <= path.size()) {
        const size_t end = std::min(path.find('/', begin), path.size());
        const std::string_view name(path.data() + begin, end - begin);
        if (name.empty() || name == "." || name == ".." || name.contains('\0')) {
            return fail(Code::invalid_argument,
                        "name '" + path.substr(0, path.find('\0')) + "' from the guest: is none");
        }
        begin = end + 1;
    }
    return {};
}

Result<TargetPlace> CopyTarget::place(const std::string& path) {
    TRY(check_guest_path(path));
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos)
        return TargetPlace{root_, path};
    const std::string parent = path.substr(0, slash);
    if (!last_ || parent != last_path_) {
        UniqueFd found = open_below(root_->get(), parent);
        if (!found)
            return fail_at("directory", parent);
        last_ = std::make_shared<UniqueFd>(std::move(found));
        last_path_ = parent;
    }
    return TargetPlace{last_, path.substr(slash + 1)};
}

Status put_directory(const TargetPlace& place) {
    if (::mkdirat(place.directory->get(), place.name.c_str(), 0700) == 0)
        return {};
    struct stat about = {};
    if (errno != EEXIST)
        return fail_at("make directory", place.name);
    if (::fstatat(place.directory->get(), place.name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISDIR(about.st_mode))
        return fail(Code::already_exists, "'" + place.name + "': is there, and no directory");
    return {};
}

Status finish_directory(const TargetPlace& place, uint32_t mode, int64_t mtime_ns) {
    const UniqueFd directory(::openat(place.directory->get(), place.name.c_str(),
                                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory)
        return fail_at("open directory", place.name);
    return set_attributes(directory.get(), place.name, mode, mtime_ns);
}

Status put_symlink(const TargetPlace& place, const std::string& target) {
    const int directory = place.directory->get();
    if (target.empty() || target.contains('\0'))
        return fail(Code::invalid_argument, "symbolic link '" + place.name + "': leads nowhere");
    if (::symlinkat(target.c_str(), directory, place.name.c_str()) == 0)
        return {};
    if (errno != EEXIST)
        return fail_at("make symbolic link", place.name);
    const std::string temporary = fresh_name();
    if (::symlinkat(target.c_str(), directory, temporary.c_str()) != 0)
        return fail_at("make symbolic link", place.name);
    if (::renameat(directory, temporary.c_str(), directory, place.name.c_str()) == 0)
        return {};
    Status failed = fail_at("replace", place.name);
    ::unlinkat(directory, temporary.c_str(), 0);
    return failed;
}

Status put_hard_link(const TargetPlace& first, const TargetPlace& place) {
    const int from = first.directory->get(), directory = place.directory->get();
    struct stat source = {};
    if (::fstatat(from, first.name.c_str(), &source, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(source.st_mode))
        return fail(Code::invalid_argument, "'" + first.name + "': is no plain file any more");
    const std::string temporary = fresh_name();
    if (::linkat(from, first.name.c_str(), directory, temporary.c_str(), 0) != 0)
        return fail_at("link", place.name);
    Status put;
    if (::renameat(directory, temporary.c_str(), directory, place.name.c_str()) != 0)
        put = fail_at("replace", place.name);
    // Still there where it was a name of the same file before (rename(2)).
    ::unlinkat(directory, temporary.c_str(), 0);
    return put;
}

Result<PutFile> PutFile::begin(const TargetPlace& place) {
    std::string temporary = fresh_name();
    UniqueFd file(::openat(place.directory->get(), temporary.c_str(),
                           O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file)
        return fail_at("create a file for", place.name);
    return PutFile(place, std::move(file), std::move(temporary));
}

PutFile::~PutFile() {
    if (file_)
        ::unlinkat(place_.directory->get(), temporary_.c_str(), 0);
}

Status PutFile::write(std::span<const std::byte> bytes) {
    const bool hole =
        std::ranges::all_of(bytes, [](std::byte each) { return each == std::byte{0}; });
    if (hole) {
        size_ += static_cast<off_t>(bytes.size());
        return {};
    }
    while (!bytes.empty()) {
        const ssize_t count = ::pwrite(file_.get(), bytes.data(), bytes.size(), size_);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail_at("write", place_.name);
        bytes = bytes.subspan(static_cast<size_t>(count));
        size_ += count;
    }
    return {};
}

Status PutFile::finish(uint32_t mode, int64_t mtime_ns) {
    if (::ftruncate(file_.get(), size_) != 0)
        return fail_at("write", place_.name);
    TRY(set_attributes(file_.get(), place_.name, mode, mtime_ns));
    const int directory = place_.directory->get();
    if (::renameat(directory, temporary_.c_str(), directory, place_.name.c_str()) != 0)
        return fail_at("replace", place_.name);
    file_.reset();
    return {};
}

}  // namespace spore
