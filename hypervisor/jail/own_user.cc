#include "hypervisor/jail/own_user.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

#include "hypervisor/jail/jail.h"

namespace spore {

namespace {

constexpr std::string_view kNone = "none";
// Of a process that another takes over from, and of a socket's path.
constexpr unsigned kLeast = 1000;
constexpr unsigned kMost = 4'000'000'000;

std::optional<unsigned> number_of(std::string_view text) {
    unsigned number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return number;
}

// Field `index` of a line with colons between them.
std::string_view field_of(std::string_view line, size_t index) {
    for (; index > 0; index--) {
        size_t colon = line.find(':');
        if (colon == std::string_view::npos)
            return {};
        line.remove_prefix(colon + 1);
    }
    return line.substr(0, line.find(':'));
}

std::string range_text(const UserRange& range) {
    return std::to_string(range.first) + "-" + std::to_string(range.last);
}

// Each line has a first ID in field `first`, and how many in `count` (0: one).
Status check_file(const UserRange& range, const std::string& path, size_t first, size_t count) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        auto id = number_of(field_of(line, first));
        auto many = count == 0 ? 1u : number_of(field_of(line, count)).value_or(0);
        if (!id || many == 0 || *id > range.last || uint64_t{*id} + many <= range.first)
            continue;
        return fail(Code::invalid_argument,
                    "SPORE_UIDS '" + range_text(range) + "': " + path + " gives " +
                        std::to_string(*id) + (many == 1 ? "" : " and more") + " to '" +
                        std::string(field_of(line, 0)) + "'; choose another range");
    }
    return {};
}

bool is_mapped(const UserRange& range, const std::string& path) {
    std::ifstream file(path);
    uint64_t inside = 0, outside = 0, count = 0;
    while (file >> inside >> outside >> count) {
        if (range.first >= inside && range.last < inside + count)
            return true;
    }
    return false;
}

// Nobody's any more, if it can be locked; a file that was removed meanwhile is none.
std::optional<UniqueFd> lock_number(int directory, unsigned number) {
    std::string name = std::to_string(number);
    UniqueFd file(
        ::openat(directory, name.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0)
        return std::nullopt;
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0 || status.st_nlink == 0) {
        errno = EWOULDBLOCK;  // swept away before it was locked
        return std::nullopt;
    }
    return file;
}

bool write_map(const std::string& path, unsigned id) {
    std::string line = std::to_string(kJailUser) + " " + std::to_string(id) + " 1\n";
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    return file &&
           ::write(file.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size());
}

}  // namespace

std::string UserHost::from_environment() {
    const char* wanted = std::getenv("SPORE_UIDS");
    return wanted == nullptr ? "" : wanted;
}

Result<UserRange> user_range(const UserHost& host) {
    UserRange range;
    if (host.wanted == kNone)
        return fail(Code::host_unsupported, "SPORE_UIDS is 'none'");
    if (!host.wanted.empty()) {
        std::string_view text = host.wanted;
        size_t dash = text.find('-');
        auto first = number_of(text.substr(0, dash));
        auto last = dash == std::string_view::npos ? first : number_of(text.substr(dash + 1));
        if (!first || !last || *first > *last || *first < kLeast || *last > kMost ||
            (*first <= kJailUser && *last >= kJailUser))
            return fail(Code::invalid_argument,
                        "SPORE_UIDS '" + host.wanted + "': must be FIRST-LAST, from " +
                            std::to_string(kLeast) + " to " + std::to_string(kMost) + " without " +
                            std::to_string(kJailUser) + ", or none");
        range = {*first, *last};
    }
    for (const std::string& path : host.accounts)
        TRY(check_file(range, path, 2, 0));
    for (const std::string& path : host.subordinates)
        TRY(check_file(range, path, 1, 2));
    if (!is_mapped(range, host.map))
        return fail(Code::host_unsupported, "SPORE_UIDS '" + range_text(range) +
                                                "': this user namespace has no such users");
    return range;
}

Result<OwnUser> claim_user(const UserHost& host) {
    auto range = TRY(user_range(host));
    if (::mkdir(host.directory.c_str(), 0700) != 0 && errno != EEXIST)
        return fail_errno(host.directory);
    UniqueFd directory(::open(host.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct stat status = {};
    if (!directory || ::fstat(directory.get(), &status) != 0)
        return fail_errno(host.directory);
    if (status.st_uid != ::geteuid())
        return fail(Code::permission_denied,
                    host.directory + ": belongs to user " + std::to_string(status.st_uid));
    // From anywhere on, so that few are looked at, but not from so many places that their files
    // become a burden.
    constexpr uint32_t kPlacesMax = 16'384;
    uint32_t count = range.last - range.first + 1, start = 0;
    if (::getrandom(&start, sizeof(start), 0) != sizeof(start))
        return fail_errno("getrandom");
    for (uint32_t tries = 0; tries < count; tries++) {
        unsigned number = range.first + (start % std::min(count, kPlacesMax) + tries) % count;
        if (auto claim = lock_number(directory.get(), number))
            return OwnUser{number, std::move(*claim)};
        if (errno != EWOULDBLOCK)
            return fail_errno(host.directory + "/" + std::to_string(number));
    }
    return fail(Code::resource_exhausted, "SPORE_UIDS '" + range_text(range) + "': all " +
                                              std::to_string(count) + " are in use");
}

Result<std::optional<OwnUser>> claim_user_if_root(const UserHost& host) {
    std::optional<OwnUser> none;
    if (::geteuid() != 0)
        return none;
    auto user = claim_user(host);
    if (!user && user.error().code == Code::host_unsupported)
        return none;
    return std::optional(TRY(std::move(user)));
}

size_t sweep_users(const UserHost& host) {
    std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(host.directory.c_str()), ::closedir);
    if (!directory)
        return 0;
    size_t removed = 0;
    int fd = ::dirfd(directory.get());
    while (const dirent* entry = ::readdir(directory.get())) {
        if (!number_of(entry->d_name))
            continue;
        // Locked while it goes: whoever takes the number at this moment sees that the file is none.
        UniqueFd file(::openat(fd, entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        if (file && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0)
            removed += ::unlinkat(fd, entry->d_name, 0) == 0;
    }
    return removed;
}

Result<UserMapper> make_user_mapper() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return fail_errno("socketpair");
    UserMapper mapper{UniqueFd(ends[0]), UniqueFd(ends[1])};
    // Before anything is sent: what was sent without it has no sender.
    int on = 1;
    if (::setsockopt(mapper.keeper.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0)
        return fail_errno("SO_PASSCRED");
    return mapper;
}

// The kernel says who has sent the byte: nothing is taken from its word.
Status map_worker_user(int socket, unsigned user, int timeout_ms) {
    pollfd waiting = {socket, POLLIN, 0};
    int ready = 0;
    do {
        ready = ::poll(&waiting, 1, timeout_ms);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0)
        return fail(Code::timeout, "a worker did not ask for its user");
    char byte = 0;
    iovec bytes = {&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
    msghdr message = {};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1)
        return fail(Code::unavailable, "a worker died before it asked for its user");
    const cmsghdr* part = CMSG_FIRSTHDR(&message);
    if (part == nullptr || part->cmsg_type != SCM_CREDENTIALS)
        return fail(Code::internal, "a worker's credentials did not come");
    ucred sender = {};
    std::memcpy(&sender, CMSG_DATA(part), sizeof(sender));
    if (sender.pid <= 0)
        return fail(Code::internal, "a worker is in no PID namespace that is seen from here");
    std::string process = "/proc/" + std::to_string(sender.pid);
    for (const char* map : {"/uid_map", "/gid_map"}) {
        if (!write_map(process + map, user))
            return fail_errno(process + map);
    }
    if (::send(socket, &byte, 1, MSG_NOSIGNAL) != 1)
        return fail(Code::unavailable, "a worker died before it got its user");
    return {};
}

Status become_mapped_user(int socket) {
    char byte = 'u';
    ssize_t done = ::send(socket, &byte, 1, MSG_NOSIGNAL);
    if (done == 1) {
        do {
            done = ::recv(socket, &byte, 1, 0);
        } while (done < 0 && errno == EINTR);
    }
    if (done != 1)
        return fail(Code::unavailable, "its user was not mapped");
    if (::setresgid(kJailUser, kJailUser, kJailUser) != 0 ||
        ::setresuid(kJailUser, kJailUser, kJailUser) != 0)
        return fail_errno("becoming the user that was mapped");
    return {};
}

}  // namespace spore
