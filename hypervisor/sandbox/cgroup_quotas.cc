#include "hypervisor/sandbox/cgroup_quotas.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

#include "hypervisor/base/quota_limits.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

// As they are named in `spore stats` and by the options of `spore create`.
constexpr const char* kCpuMax = "cpu_max";
constexpr const char* kCpuWeight = "cpu_weight";
constexpr const char* kMemoryMax = "memory_max";
constexpr const char* kTasksMax = "vmm_tasks_max";

class Setter {
  public:
    Setter(const stdfs::path& directory, std::vector<Unenforced>& missing)
        : directory_(directory), missing_(missing) {}

    Status set(const char* name, const char* file, uint64_t value, uint64_t before,
               const std::string& text) {
        if (value == before)
            return {};
        bool wanted = value != 0;
        if (directory_.empty()) {
            if (wanted)
                missing_.push_back({name, "the sandbox has no cgroup"});
            return {};
        }
        UniqueFd fd(::open((directory_ / file).c_str(), O_WRONLY | O_CLOEXEC));
        if (!fd && errno == ENOENT) {
            if (wanted)
                missing_.push_back({name, directory_.string() + " has no " + file});
            return {};
        }
        if (!fd || ::write(fd.get(), text.data(), text.size()) < 0)
            return fail_errno((directory_ / file).string() + ": '" + text + "'");
        return {};
    }

  private:
    const stdfs::path& directory_;
    std::vector<Unenforced>& missing_;
};

std::string number_or_max(uint64_t value) {
    return value == 0 ? "max" : std::to_string(value);
}

std::string cpu_max_text(uint32_t millis) {
    std::string quota = number_or_max(uint64_t{millis} * limits::kCpuPeriodUs / 1000);
    return quota + " " + std::to_string(limits::kCpuPeriodUs);
}

std::optional<std::string> text_of(const stdfs::path& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    char text[4096];
    ssize_t got = fd ? ::read(fd.get(), text, sizeof(text)) : -1;
    if (got < 0)
        return std::nullopt;
    return std::string(text, static_cast<size_t>(got));
}

// "max" is 0: none.
std::optional<uint64_t> number_of(std::string_view text) {
    uint64_t number = 0;
    if (text.starts_with("max"))
        return number;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc())
        return std::nullopt;
    return number;
}

std::optional<uint64_t> number_in(const stdfs::path& path) {
    auto text = text_of(path);
    return text ? number_of(*text) : std::nullopt;
}

// Of a file with a key and a number in each line.
std::optional<uint64_t> keyed(const stdfs::path& path, std::string_view key) {
    auto text = text_of(path);
    if (!text)
        return std::nullopt;
    std::string_view rest = *text;
    while (!rest.empty()) {
        std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ' ')
            return number_of(line.substr(key.size() + 1));
    }
    return std::nullopt;
}

}  // namespace

Result<std::vector<Unenforced>> set_cgroup_quotas(const stdfs::path& directory,
                                                  const CgroupQuotas& quotas,
                                                  const CgroupQuotas& before) {
    std::vector<Unenforced> missing;
    Setter setter(directory, missing);
    TRY(setter.set(kMemoryMax, "memory.max", quotas.memory_max, before.memory_max,
                   number_or_max(quotas.memory_max)));
    TRY(setter.set(kTasksMax, "pids.max", quotas.tasks_max, before.tasks_max,
                   number_or_max(quotas.tasks_max)));
    TRY(setter.set(
        kCpuWeight, "cpu.weight", quotas.cpu_weight, before.cpu_weight,
        std::to_string(quotas.cpu_weight == 0 ? limits::kCpuWeightDefault : quotas.cpu_weight)));
    TRY(setter.set(kCpuMax, "cpu.max", quotas.cpu_max_millis, before.cpu_max_millis,
                   cpu_max_text(quotas.cpu_max_millis)));
    return missing;
}

CgroupUsage read_cgroup_usage(const stdfs::path& directory) {
    CgroupUsage usage;
    if (directory.empty())
        return usage;
    usage.cpu_us = keyed(directory / "cpu.stat", "usage_usec");
    usage.throttled_us = keyed(directory / "cpu.stat", "throttled_usec");
    usage.memory_bytes = number_in(directory / "memory.current");
    usage.memory_max = number_in(directory / "memory.max");
    usage.oom_kills = keyed(directory / "memory.events", "oom_kill");
    usage.tasks = number_in(directory / "pids.current");
    usage.tasks_max = number_in(directory / "pids.max");
    if (auto text = text_of(directory / "cpu.max")) {
        size_t space = text->find(' ');
        auto quota = number_of(*text);
        auto period = space == std::string::npos
                          ? std::nullopt
                          : number_of(std::string_view(*text).substr(space + 1));
        if (quota && period && *period > 0)
            usage.cpu_max_millis = *quota * 1000 / *period;
    }
    return usage;
}

}  // namespace spore
