#include "agent/file_path.h"

#include <fcntl.h>
#include <sys/random.h>

#include <climits>

#include "agent/users.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

constexpr int kLinksMax = 40;  // as many as Linux follows (path_resolution(7))
constexpr size_t kShownBytes = 256;

Code code_of(int error, Code usual) {
    switch (error) {
        case EINVAL:
        case ENOTEMPTY:
        case ENXIO:
        case ENODEV:
            return Code::invalid_argument;
        case EXDEV:
        case EOPNOTSUPP:
        case ENOSYS:
            return Code::host_unsupported;
        case EFBIG:
        case EMLINK:
            return Code::resource_exhausted;
        case EBUSY:
        case ETXTBSY:
        case EAGAIN:
            return Code::unavailable;
        default:
            return usual;
    }
}

}  // namespace

Result<std::string> path_of(const flatbuffers::Vector<uint8_t>* bytes) {
    const auto given = view(bytes);
    if (given.empty())
        return fail(Code::invalid_argument, "path: is empty");
    if (given.size() > limits::kPathBytesMax) {
        return fail(Code::invalid_argument, "path of " + std::to_string(given.size()) +
                                                " bytes: must be at most " +
                                                std::to_string(limits::kPathBytesMax));
    }
    std::string path(reinterpret_cast<const char*>(given.data()), given.size());
    if (path.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, "path " + quoted(path) + ": must have no NUL in it");
    if (path.front() != '/')
        path.insert(0, "/");
    return path;
}

std::string quoted(std::string_view path) {
    const bool cut = path.size() > kShownBytes;
    std::string text = "'" + std::string(path.substr(0, kShownBytes)) + (cut ? "...'" : "'");
    for (char& c : text)
        c = c == '\0' ? ' ' : c;
    return text;
}

std::unexpected<Error> fail_file(std::string_view what, std::string_view path, int error) {
    auto failed = fail_errno(std::string(what) + " " + quoted(path), error);
    failed.error().code = code_of(error, failed.error().code);
    return failed;
}

Result<Place> find_place(const std::string& asked, bool follow) {
    std::string path = asked;
    Place place;
    for (int links = 0; links < kLinksMax; ++links) {
        while (path.size() > 1 && path.back() == '/')
            path.pop_back();
        const size_t slash = path.rfind('/');
        const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
        const int from = place.directory ? place.directory.get() : AT_FDCWD;
        UniqueFd directory(::openat(from, parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!directory)
            return fail_file("directory of", asked);
        place.directory = std::move(directory);
        place.name = path.substr(slash == std::string::npos ? 0 : slash + 1);
        if (place.name.empty() || place.name == "." || place.name == "..")
            return fail(Code::invalid_argument, quoted(asked) + ": names no entry of a directory");
        if (!follow)
            return place;
        char target[PATH_MAX];
        const ssize_t size =
            ::readlinkat(place.directory.get(), place.name.c_str(), target, sizeof(target));
        if (size < 0 && (errno == EINVAL || errno == ENOENT))  // no link, or nothing yet
            return place;
        if (size < 0)
            return fail_file("read link", asked);
        path.assign(target, static_cast<size_t>(size));
    }
    return fail_file("follow", asked, ELOOP);
}

Result<std::optional<Owner>> owner_of(const flatbuffers::String* user) {
    const std::string_view spec = view(user);
    if (spec.empty())
        return std::nullopt;
    const User found = TRY(find_user(spec));
    return Owner{found.uid, found.gid};
}

Status make_parents(const std::string& path, const std::optional<Owner>& owner) {
    UniqueFd directory(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    size_t begin = 0;
    while (directory) {
        begin = path.find_first_not_of('/', begin);
        const size_t end = path.find('/', begin);
        if (begin == std::string::npos || end == std::string::npos ||
            path.find_first_not_of('/', end) == std::string::npos)
            return {};
        const std::string name = path.substr(begin, end - begin);
        begin = end;
        const auto open = [&] {
            return UniqueFd(
                ::openat(directory.get(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        };
        UniqueFd next = open();
        if (!next && errno == ENOENT) {
            const bool made = ::mkdirat(directory.get(), name.c_str(), 0755) == 0;
            if (!made && errno != EEXIST)
                return fail_file("make directory", path.substr(0, end));
            next = open();
            if (next && made && owner &&
                ::fchownat(next.get(), "", owner->uid, owner->gid, AT_EMPTY_PATH) != 0)
                return fail_file("change the owner of", path.substr(0, end));
        }
        if (!next)
            return fail_file("directory", path.substr(0, end));
        directory = std::move(next);
    }
    return fail_file("open", "/");
}

timespec time_of(int64_t ns) {
    constexpr int64_t kSecond = 1'000'000'000;
    const int64_t part = (ns % kSecond + kSecond) % kSecond;  // never below 0
    return {.tv_sec = (ns - part) / kSecond, .tv_nsec = part};
}

std::string temporary_name() {
    uint64_t random = 0;
    // Never short for so few bytes; without it the name would be found taken, and the request fail.
    (void)!::getrandom(&random, sizeof(random), 0);
    constexpr const char* kDigits = "0123456789abcdef";
    std::string name = ".spore-";
    for (int i = 0; i < 16; ++i, random >>= 4)
        name += kDigits[random & 15];
    return name;
}

}  // namespace spore
