#include "hypervisor/sandbox/cgroup_quotas.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

#include "hypervisor/base/quota_limits.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/jail/cgroup_v1.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

// As they are named in `spore stats` and by the options of `spore create`.
constexpr const char* kCpuMax = "cpu_max";
constexpr const char* kCpuWeight = "cpu_weight";
constexpr const char* kMemoryMax = "memory_max";
constexpr const char* kTasksMax = "vmm_tasks_max";

// A limit as the one and the other version of cgroups has it.
struct Setting {
    const char* name;
    const char* file;
    std::string text;
    const char* controller_v1;
    const char* file_v1;
    std::string text_v1;
};

class Setter {
  public:
    Setter(const stdfs::path& directory, std::vector<Unenforced>& missing)
        : directory_(directory), missing_(missing) {}

    Status set(const Setting& setting, uint64_t value, uint64_t before) {
        if (value == before)
            return {};
        bool wanted = value != 0;
        if (directory_.empty()) {
            if (wanted)
                missing_.push_back({setting.name, "the sandbox has no cgroup"});
            return {};
        }
        if (TRY(write(directory_ / setting.file, setting.text)))
            return {};
        stdfs::path v1 = cgroup_v1_of(directory_, setting.controller_v1);
        if (!v1.empty() && TRY(write(v1 / setting.file_v1, setting.text_v1)))
            return {};
        if (wanted)
            missing_.push_back(
                {setting.name, directory_.string() + " has no " + setting.file +
                                   (v1.empty() ? "" : ", " + v1.string() + " is not there")});
        return {};
    }

  private:
    // False: there is no such file.
    Result<bool> write(const stdfs::path& file, const std::string& text) {
        UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
        if (!fd && errno == ENOENT)
            return false;
        if (!fd || ::write(fd.get(), text.data(), text.size()) < 0)
            return fail_errno(file.string() + ": '" + text + "'");
        return true;
    }

    const stdfs::path& directory_;
    std::vector<Unenforced>& missing_;
};

std::string number_or_max(uint64_t value) {
    return value == 0 ? "max" : std::to_string(value);
}

// As cgroup v1 says it.
std::string number_or_minus_one(uint64_t value) {
    return value == 0 ? "-1" : std::to_string(value);
}

// For each that is a limit. The order is that in which they are set.
Setting memory_max(uint64_t bytes) {
    return {kMemoryMax,
            "memory.max",
            number_or_max(bytes),
            "memory",
            "memory.limit_in_bytes",
            number_or_minus_one(bytes)};
}

Setting tasks_max(uint64_t count) {
    return {kTasksMax, "pids.max", number_or_max(count), "pids", "pids.max", number_or_max(count)};
}

Setting cpu_weight(uint64_t weight) {
    if (weight == 0)
        weight = limits::kCpuWeightDefault;
    return {kCpuWeight,
            "cpu.weight",
            std::to_string(weight),
            "cpu",
            "cpu.shares",
            std::to_string(weight * limits::kCpuSharesDefault / limits::kCpuWeightDefault)};
}

// In cgroup v1 the period is a file of its own, which prepare_cgroup_quotas() writes.
Setting cpu_max(uint32_t millis) {
    uint64_t quota_us = uint64_t{millis} * limits::kCpuPeriodUs / 1000;
    return {kCpuMax,
            "cpu.max",
            number_or_max(quota_us) + " " + std::to_string(limits::kCpuPeriodUs),
            "cpu",
            "cpu.cfs_quota_us",
            number_or_minus_one(quota_us)};
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

// What the v2 cgroup does not have.
void add_usage_v1(const stdfs::path& directory, CgroupUsage& usage) {
    // No limit is as many pages as can be counted.
    auto none_of = [](std::optional<uint64_t> bytes) {
        return bytes && *bytes > INT64_MAX / 2 ? std::optional<uint64_t>(0) : bytes;
    };
    auto fill = [](std::optional<uint64_t>& one, std::optional<uint64_t> value) {
        if (!one)
            one = value;
    };
    stdfs::path cpu = cgroup_v1_of(directory, "cpu");
    constexpr uint64_t kNsPerUs = 1000;
    if (auto throttled_ns = keyed(cpu / "cpu.stat", "throttled_time"))
        fill(usage.throttled_us, *throttled_ns / kNsPerUs);
    auto quota = text_of(cpu / "cpu.cfs_quota_us");
    auto period = number_in(cpu / "cpu.cfs_period_us");
    if (quota && period && *period > 0)
        fill(usage.cpu_max_millis,
             quota->starts_with("-") ? 0 : number_of(*quota).value_or(0) * 1000 / *period);
    stdfs::path memory = cgroup_v1_of(directory, "memory");
    fill(usage.memory_bytes, number_in(memory / "memory.usage_in_bytes"));
    fill(usage.memory_max, none_of(number_in(memory / "memory.limit_in_bytes")));
    fill(usage.oom_kills, keyed(memory / "memory.oom_control", "oom_kill"));
    stdfs::path pids = cgroup_v1_of(directory, "pids");
    fill(usage.tasks, number_in(pids / "pids.current"));
    fill(usage.tasks_max, number_in(pids / "pids.max"));
}

}  // namespace

Status prepare_cgroup_quotas(const stdfs::path& directory) {
    stdfs::path period = cgroup_v1_of(directory, "cpu") / "cpu.cfs_period_us";
    UniqueFd fd(::open(period.c_str(), O_WRONLY | O_CLOEXEC));
    std::string text = std::to_string(limits::kCpuPeriodUs);
    if (fd && ::write(fd.get(), text.data(), text.size()) < 0)
        return fail_errno(period.string() + ": '" + text + "'");
    return {};
}

Result<std::vector<Unenforced>> set_cgroup_quotas(const stdfs::path& directory,
                                                  const CgroupQuotas& quotas,
                                                  const CgroupQuotas& before) {
    std::vector<Unenforced> missing;
    Setter setter(directory, missing);
    TRY(setter.set(memory_max(quotas.memory_max), quotas.memory_max, before.memory_max));
    TRY(setter.set(tasks_max(quotas.tasks_max), quotas.tasks_max, before.tasks_max));
    TRY(setter.set(cpu_weight(quotas.cpu_weight), quotas.cpu_weight, before.cpu_weight));
    TRY(setter.set(cpu_max(quotas.cpu_max_millis), quotas.cpu_max_millis, before.cpu_max_millis));
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
    if (!cgroup_v1_of(directory, "cpu").empty())
        add_usage_v1(directory, usage);
    return usage;
}

}  // namespace spore
