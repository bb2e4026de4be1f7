#include "hypervisor/sandbox/sandbox_quotas.h"

#include <algorithm>

#include "hypervisor/base/limits.h"
#include "hypervisor/sandbox/cgroup_spot.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/helper_cgroup.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore {

CgroupQuotas cgroup_quotas(const Quotas& quotas, const GuestSize& size) {
    CgroupQuotas cgroup;
    cgroup.cpu_max_millis = quotas.cpu_max_millis;
    cgroup.cpu_weight = quotas.cpu_weight;
    cgroup.tasks_max = limits::kVmmTasksMax;
    // Not --memory-max: a page that a guest has used once stays its VMM's, free in there or not, so
    // that a guest whose commands keep to it comes to use all that it has; a bound below that ended
    // its VM (seen of one that wrote files).
    if (size.memory_bytes != 0)
        cgroup.memory_max =
            size.memory_bytes +
            vmm_overhead_bytes(size.memory_bytes, std::max(size.disk_bytes, quotas.disk_max));
    return cgroup;
}

std::vector<std::string> rate_arguments(const Quotas& quotas) {
    std::vector<std::string> arguments;
    if (quotas.io.limited())
        arguments.insert(arguments.end(), {"--io-max", rate_limits_text(quotas.io, "ops")});
    if (quotas.net.limited())
        arguments.insert(arguments.end(), {"--net-max", rate_limits_text(quotas.net, "packets")});
    return arguments;
}

std::optional<AgentLimits> agent_limits(const Quotas& quotas, const Quotas& before) {
    if (quotas.pids_max == before.pids_max && quotas.memory_max == before.memory_max)
        return std::nullopt;
    return AgentLimits{quotas.pids_max, commands_memory_bytes(quotas.memory_max)};
}

Result<QuotaChange> QuotaChange::begin(const std::filesystem::path& directory, const Quotas& before,
                                       const Quotas& after, const GuestSize& size) {
    QuotaChange change;
    VmmLimits devices;
    if (after.io != before.io)
        devices.disk = after.io;
    if (after.net != before.net)
        devices.network = after.net;
    if (after.disk_max > before.disk_max)
        change.disk_bytes_ = devices.disk_bytes = after.disk_max;
    if (devices.disk || devices.network || devices.disk_bytes != 0) {
        change.vmm_ = TRY(VmmClient::connect(directory));
        TRY(change.vmm_->begin_set_limits(devices));
    }
    if (CgroupQuotas wanted = cgroup_quotas(after, size), had = cgroup_quotas(before, size);
        wanted != had)
        change.unenforced_ = TRY(set_cgroup_quotas(cgroup_of_directory(directory), wanted, had));
    TRY(change_helpers(directory, before, after));
    return change;
}

Status QuotaChange::finish(Deadline deadline) {
    if (!vmm_)
        return {};
    TRY(vmm_->finish_set_limits(deadline));
    vmm_.reset();
    return {};
}

namespace {

Result<QuotaChange> change_all(const std::filesystem::path& directory, const Quotas& before,
                               const Quotas& after, const GuestSize& size,
                               QuotaChange::Deadline deadline) {
    auto change = TRY(QuotaChange::begin(directory, before, after, size));
    TRY(change.finish(deadline));
    auto limits = agent_limits(after, before);
    if (!limits && change.disk_bytes() == 0)
        return change;
    auto agent = TRY(connect_agent(directory, deadline));
    if (limits)
        TRY(agent.set_limits(*limits, deadline));
    if (change.disk_bytes() != 0)
        TRY(agent.grow_root(deadline, change.disk_bytes()));
    return change;
}

// What the disk has, if `after` asks for another size, to be held against that; 0: it stays.
// Without a limit a disk has its template's size.
uint64_t disk_to_change(const Quotas& before, const Quotas& after, uint64_t template_bytes) {
    const auto size = [template_bytes](const Quotas& quotas) {
        return quotas.disk_max == 0 ? template_bytes : quotas.disk_max;
    };
    return size(after) == size(before) ? 0 : size(before);
}

}  // namespace

Result<UpdatedSandbox> update_sandbox(const Home& home, const std::string& id,
                                      const QuotaWords& words, std::chrono::milliseconds limit) {
    auto deadline = std::chrono::steady_clock::now() + limit;
    auto [lock, info] = TRY(hold_sandbox(home, id));
    auto directory = run_directory(home, id);
    if (!info.alive)
        return fail(Code::unavailable, "sandbox '" + id + "': its VM has ended");
    const Quotas before = info.record.quotas;
    const Quotas after = TRY(with_words(before, words));
    GuestSize size;
    if (after.memory_max != before.memory_max || after.disk_max != before.disk_max) {
        auto source = TRY(load_template(home, info.record.template_name));
        size = {source.memory_bytes, source.disk_bytes};
    }
    TRY(check_quotas(after, {.guest_memory_bytes = size.memory_bytes,
                             .disk_bytes = disk_to_change(before, after, size.disk_bytes)}));
    auto change = change_all(directory, before, after, size, deadline);
    if (change) {
        info.record.quotas = after;
        if (auto saved = save_record(directory, info.record); !saved)
            change = std::unexpected(saved.error());
    }
    if (!change) {  // as it was, as far as what failed lets it
        (void)change_all(directory, after, before, size, deadline);
        return std::unexpected(std::move(change).error().within("sandbox '" + id + "'"));
    }
    return UpdatedSandbox{std::move(info), change->unenforced()};
}

}  // namespace spore
