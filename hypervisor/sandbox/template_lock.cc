#include "hypervisor/sandbox/template_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

namespace spore {

namespace {

// A template that was just made, or is to be removed, is locked for a moment.
constexpr auto kMoment = std::chrono::seconds(2);

std::unexpected<Error> not_found(const Home& home, const std::string& name) {
    return fail(Code::not_found,
                "template '" + name + "': there is none in " + home.templates().string());
}

// Whether `path` still is what was opened: it may have been removed before it was locked.
bool is_same(int directory, const std::filesystem::path& path) {
    struct stat opened = {};
    struct stat named = {};
    return ::fstat(directory, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

Result<UniqueFd> open_directory(const Home& home, const std::string& name) {
    auto path = home.templates() / name;
    UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory && (errno == ENOENT || errno == ENOTDIR))
        return not_found(home, name);
    if (!directory)
        return fail_errno(path.string());
    return directory;
}

}  // namespace

// Closing is not enough: see ~DirectoryLock().
TemplateLock::~TemplateLock() {
    if (directory_)
        ::flock(directory_.get(), LOCK_UN);
}

Result<TemplateLock> TemplateLock::share(const Home& home, const std::string& name) {
    TRY(check_name("template", name));
    auto directory = TRY(open_directory(home, name));
    auto limit = std::chrono::steady_clock::now() + kMoment;
    while (::flock(directory.get(), LOCK_SH | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return fail_errno("template '" + name + "': flock");
        if (std::chrono::steady_clock::now() > limit)
            return fail(Code::unavailable, "template '" + name + "': is being removed");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!is_same(directory.get(), home.templates() / name))
        return not_found(home, name);
    return TemplateLock(std::move(directory));
}

Result<TemplateLock> TemplateLock::own(const Home& home, const std::string& name) {
    TRY(check_name("template", name));
    auto directory = TRY(open_directory(home, name));
    if (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return fail_errno("template '" + name + "': flock");
        return fail(Code::unavailable, "template '" + name + "': clones of it are being made");
    }
    if (!is_same(directory.get(), home.templates() / name))
        return not_found(home, name);
    return TemplateLock(std::move(directory));
}

}  // namespace spore
