#include "hypervisor/sandbox/home.h"

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "hypervisor/sandbox/run_directories.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

Result<stdfs::path> root_from_environment() {
    if (const char* home = std::getenv("SPORE_HOME"); home != nullptr && *home != '\0') {
        if (*home != '/')
            return fail(Code::invalid_argument,
                        "SPORE_HOME '" + std::string(home) + "': must be an absolute path");
        return stdfs::path(home);
    }
    if (::geteuid() == 0)
        return stdfs::path("/var/lib/spore");
    if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data == '/')
        return stdfs::path(data) / "spore";
    if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/')
        return stdfs::path(home) / ".local/share/spore";
    return fail(Code::invalid_argument, "SPORE_HOME: is not set, and neither is HOME");
}

Status make_all(const stdfs::path& path) {
    std::error_code error;
    if (stdfs::is_directory(path, error))
        return {};
    stdfs::create_directories(path.parent_path(), error);
    if (error)
        return fail_errno(path.parent_path().string(), error.value());
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
        return fail_errno(path.string());
    return {};
}

}  // namespace

Result<Home> Home::open() {
    return open(TRY(root_from_environment()));
}

Result<Home> Home::open(stdfs::path root) {
    if (!root.is_absolute())
        return fail(Code::invalid_argument,
                    "home '" + root.string() + "': must be an absolute path");
    Home home(std::move(root));
    for (const stdfs::path& path : {home.root(), home.images(), home.templates(), home.disks()})
        TRY(make_all(path));
    TRY(make_run_directories(home));
    return home;
}

Result<stdfs::path> Home::program(std::string_view name) {
    std::error_code error;
    stdfs::path self = stdfs::read_symlink("/proc/self/exe", error);
    if (error)
        return fail_errno("/proc/self/exe", error.value());
    stdfs::path here = self.parent_path();
    const char* named = std::getenv("SPORE_PROGRAMS");
    const stdfs::path given = named == nullptr ? "" : named;
    // The build tree (hypervisor/cli/spore beside hypervisor/vmm/spore-vmm), then an installation.
    for (const stdfs::path& candidate :
         {given.is_absolute() ? given / name : here / name, here / name, here / ".." / "vmm" / name,
          here / ".." / ".." / "agent" / name, here / ".." / "libexec" / "spore" / name,
          stdfs::path(SPORE_LIBEXEC) / name}) {
        if (::access(candidate.c_str(), X_OK) == 0)
            return stdfs::canonical(candidate, error);
    }
    return fail(Code::not_found, std::string(name) + ": is not beside " + self.string());
}

Status check_name(std::string_view what, std::string_view name) {
    auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
    bool good = !name.empty() && name.size() <= 63 && plain(name.front()) && plain(name.back());
    for (char c : name)
        good = good && (plain(c) || c == '-');
    if (!good)
        return fail(Code::invalid_argument,
                    std::string(what) + " '" + std::string(name.substr(0, 80)) +
                        "': must be 1 to 63 of a-z, 0-9 and '-', with no '-' at either end");
    return {};
}

Result<std::string> random_name() {
    // 32 characters, no vowels but a and u: 5 bits each, and no words by accident.
    constexpr char kAlphabet[] = "abcdfghjkmnpqrstuvwxyz0123456789";
    static_assert(sizeof(kAlphabet) == 33);
    unsigned char bytes[12];
    if (::getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
        return fail_errno("getrandom");
    std::string name = "sb-";
    for (unsigned char byte : bytes)
        name.push_back(kAlphabet[byte % 32]);
    return name;
}

Status make_directory(const stdfs::path& path) {
    if (::mkdir(path.c_str(), 0700) != 0)
        return fail_errno(path.string());
    return {};
}

}  // namespace spore
