#include "hypervisor/sandbox/helper_cgroup.h"

#include <unistd.h>

#include <algorithm>

#include "hypervisor/base/network_limits.h"
#include "hypervisor/base/words.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

constexpr Helper kHelpers[] = {Helper::passt, Helper::resolver};

const char* link_of(Helper helper) {
    return helper == Helper::passt ? "cgroup-passt" : "cgroup-resolver";
}

std::string lacks_controllers(const std::string& who, const std::vector<std::string>& missing) {
    return missing.empty() ? "" : who + " has no controller " + joined(missing);
}

void end_helper(const stdfs::path& directory, Helper helper) {
    stdfs::path cgroup = cgroup_of_directory(directory, link_of(helper));
    if (cgroup.empty())
        return;
    kill_cgroup(cgroup);
    (void)remove_cgroup(cgroup);
    ::unlink((directory / link_of(helper)).c_str());
}

}  // namespace

CgroupQuotas helper_quotas(Helper helper, const Quotas& quotas) {
    CgroupQuotas bounds;
    bounds.cpu_max_millis =
        std::clamp(quotas.cpu_max_millis == 0 ? limits::kHelperCpuMillisMax : quotas.cpu_max_millis,
                   limits::kHelperCpuMillisMin, limits::kHelperCpuMillisMax);
    bounds.cpu_weight = quotas.cpu_weight;
    bounds.memory_max =
        helper == Helper::passt ? limits::kPasstMemoryBytes : limits::kResolverMemoryBytes;
    bounds.tasks_max = limits::kHelperTasksMax;
    return bounds;
}

CgroupSpot make_helper_spot(const stdfs::path& directory, Helper helper, const Quotas& quotas) {
    end_helper(directory, helper);
    return CgroupSpot::make(directory, helper_quotas(helper, quotas), link_of(helper));
}

Status change_helpers(const stdfs::path& directory, const Quotas& before, const Quotas& after) {
    for (Helper helper : kHelpers) {
        auto had = helper_quotas(helper, before), wanted = helper_quotas(helper, after);
        if (had == wanted)
            continue;
        if (auto cgroup = cgroup_of_directory(directory, link_of(helper)); !cgroup.empty())
            TRY(set_cgroup_quotas(cgroup, wanted, had));
    }
    return {};
}

void end_helpers(const stdfs::path& directory) {
    for (Helper helper : kHelpers)
        end_helper(directory, helper);
}

CgroupUsage helper_usage(const stdfs::path& directory, Helper helper) {
    return read_cgroup_usage(cgroup_of_directory(directory, link_of(helper)));
}

std::string why_helper_is_free(const stdfs::path& directory, Helper helper) {
    stdfs::path cgroup = cgroup_of_directory(directory, link_of(helper));
    std::error_code error;
    if (cgroup.empty() || !stdfs::exists(cgroup, error))
        return "it is in no cgroup";
    auto usage = read_cgroup_usage(cgroup);
    std::vector<std::string> missing;
    for (auto [is_there, controller] : {std::pair(usage.cpu_max_millis.has_value(), "cpu"),
                                        {usage.memory_max.has_value(), "memory"},
                                        {usage.tasks_max.has_value(), "pids"}}) {
        if (!is_there)
            missing.emplace_back(controller);
    }
    return lacks_controllers("its cgroup", missing);
}

std::string why_helpers_will_be_free() {
    auto place = find_cgroup_place();
    if (!place)
        return place.error().message;
    return lacks_controllers(place->directory().string(), missing_quota_controllers(*place));
}

}  // namespace spore
