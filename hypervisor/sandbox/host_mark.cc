#include "hypervisor/sandbox/host_mark.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

constexpr const char* kMarkFile = "runs-here";

std::string read_short(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    char text[256];
    ssize_t got = file ? ::read(file.get(), text, sizeof(text)) : -1;
    return got > 0 ? std::string(text, static_cast<size_t>(got)) : std::string();
}

// This boot of the kernel, and /dev/kvm, which is made anew when KVM's modules are loaded again.
// Empty: it cannot be told.
std::string host_mark() {
    std::string mark = read_short("/proc/sys/kernel/random/boot_id");
    struct stat kvm = {};
    if (mark.empty() || ::stat("/dev/kvm", &kvm) != 0)
        return {};
    for (auto number :
         {static_cast<uint64_t>(kvm.st_dev), static_cast<uint64_t>(kvm.st_ino),
          static_cast<uint64_t>(kvm.st_ctim.tv_sec), static_cast<uint64_t>(kvm.st_ctim.tv_nsec)})
        mark += std::to_string(number) + "\n";
    return mark;
}

}  // namespace

bool has_run_here(const std::filesystem::path& template_directory) {
    std::string noted = read_short(template_directory / kMarkFile);
    return !noted.empty() && noted == host_mark();
}

Status note_run_here(const std::filesystem::path& template_directory) {
    std::string mark = host_mark();
    if (mark.empty())
        return {};
    std::string path = template_directory / kMarkFile;
    std::string fresh = path + "." + std::to_string(::getpid());
    UniqueFd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file ||
        ::write(file.get(), mark.data(), mark.size()) != static_cast<ssize_t>(mark.size()) ||
        ::rename(fresh.c_str(), path.c_str()) != 0) {
        int error = errno;
        ::unlink(fresh.c_str());
        return fail_errno(path, error);
    }
    return {};
}

}  // namespace spore
