#include "hypervisor/sandbox/cgroup_spot.h"

#include <unistd.h>

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/jail/own_user.h"
#include "hypervisor/sandbox/home.h"

namespace spore {

namespace stdfs = std::filesystem;

CgroupSpot CgroupSpot::make(const stdfs::path& directory, const CgroupQuotas& quotas,
                            const char* name_of_link) {
    CgroupSpot spot;
    auto made = [&]() -> Result<Cgroup> {
        spot.place_ = TRY(find_cgroup_place());
        std::string name = TRY(random_name()).substr(3);
        std::string link = directory / name_of_link;
        ::unlink(link.c_str());  // an earlier zygote's
        if (::symlink((spot.place_->directory() / name).c_str(), link.c_str()) != 0)
            return fail_errno(link);
        auto cgroup = TRY(make_cgroup(*spot.place_, name));
        spot.has_v1_ = quotas != CgroupQuotas{} && make_cgroups_v1(cgroup.directory);
        if (spot.has_v1_)
            TRY(prepare_cgroup_quotas(cgroup.directory));
        TRY(set_cgroup_quotas(cgroup.directory, quotas));
        return cgroup;
    }();
    if (made) {
        spot.text_ = made->path;
        spot.cgroup_ = std::move(*made);
    } else {
        spot.text_ = made.error().message;
    }
    return spot;
}

std::vector<UniqueFd> CgroupSpot::open_v1(unsigned user) const {
    return has_v1_ && cgroup_ ? open_cgroups_v1(cgroup_->directory, user) : std::vector<UniqueFd>();
}

void CgroupSpot::forked() {
    if (cgroup_ && !has_v1_)
        cgroup_->unstarted.reset();
}

void CgroupSpot::started() {
    if (!cgroup_)
        return;
    if (has_v1_)
        drop_unused_cgroups_v1(cgroup_->directory);
    cgroup_->unstarted.reset();
}

void CgroupSpot::missed(std::string why) {
    text_ = std::move(why);
    if (cgroup_)
        (void)remove_cgroup(cgroup_->directory);
    cgroup_.reset();
}

// A zygote of root's has become somebody else; others' is their own.
void CgroupSpot::open_to_zygote() {
    if (!cgroup_ || ::geteuid() != 0)
        return;
    auto opened = open_cgroup(*place_, *cgroup_);
    if (opened)
        return;
    text_ = opened.error().message;
    cgroup_.reset();
}

stdfs::path cgroup_of_directory(const stdfs::path& directory, const char* link) {
    std::error_code error;
    return stdfs::read_symlink(directory / link, error);
}

Status remove_sandbox_tree(const stdfs::path& directory) {
    stdfs::path cgroup = cgroup_of_directory(directory);
    TRY(remove_tree(directory));
    if (!cgroup.empty())
        (void)remove_cgroup(cgroup);
    return {};
}

void clear_cgroups() {
    if (auto place = find_cgroup_place())
        (void)sweep_cgroups(*place);
    (void)sweep_users();
}

}  // namespace spore
