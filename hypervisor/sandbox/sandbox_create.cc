// create_sandbox(): from the request to the guest's confirmation. THE HOST'S HALF OF THE RESTORE
// PATH; spore-vmm's is hypervisor/vmm/machine_restore.cc.

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>

#include "hypervisor/base/clock.h"
#include "hypervisor/base/stage_timer.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/end_on_stop.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/handover.h"
#include "hypervisor/sandbox/host_mark.h"
#include "hypervisor/sandbox/sandbox.h"
#include "hypervisor/sandbox/sandbox_quotas.h"
#include "hypervisor/sandbox/sandbox_remains.h"
#include "hypervisor/sandbox/template_check.h"
#include "hypervisor/sandbox/template_lock.h"
#include "hypervisor/sandbox/template_owner.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/sandbox/zygote.h"
#include "hypervisor/snapshot/state.h"

namespace spore {

namespace stdfs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

int64_t unix_ms_now() {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
}

Result<AgentIdentity> make_identity(const SandboxSpec& spec) {
    AgentIdentity identity;
    identity.hostname = spec.id;
    unsigned char machine_id[16];
    if (::getrandom(machine_id, sizeof(machine_id), 0) != sizeof(machine_id))
        return fail_errno("getrandom");
    char digits[3];
    for (unsigned char byte : machine_id) {
        std::snprintf(digits, sizeof(digits), "%02x", byte);
        identity.machine_id += digits;
    }
    // Entropy and wall clock are read when the message is sent (AgentClient::identify).
    for (const auto& [name, value] : spec.environment)
        identity.environment.emplace_back(name, value);
    identity.limits = agent_limits(spec.quotas, {});
    return identity;
}

// Negative for what was before `begun_ns`, as a waiting clone's VM.
int64_t us_between(uint64_t begun_ns, uint64_t ns) {
    return static_cast<int64_t>(ns - begun_ns) / 1000;
}

// One create_sandbox() under way. What it has made goes with it, unless it was finished.
class Creation {
  public:
    // `size`: where the quotas have to know it. `replaced`: whose place the new one is to take, in
    // one step at the end; its directory is locked by the caller. `begun_ns`: when it was asked
    // for.
    Creation(const Home& home, const SandboxSpec& spec, const NetworkPolicy& policy,
             const GuestSize& size, Clock::time_point deadline, const SandboxRecord* replaced,
             uint64_t begun_ns)
        : home_(home),
          spec_(spec),
          policy_(policy),
          size_(size),
          deadline_(deadline),
          replaced_(replaced),
          begun_ns_(begun_ns) {
        if (spec.stage_times)
            stages_.start();
        stages_.mark("checked");
    }
    ~Creation() {
        if (!finished_)
            discard();
    }

    Result<CreatedSandbox> run() {
        for (;;) {
            TRY(stop_.check());
            if (!spec_.cold)
                TRY(take_waiting());
            bool waited = !directory_.empty();
            if (!waited)
                TRY(start_cold());
            stop_.watch(process_);
            stages_.mark("clone");
            auto agent = confirm();
            if (agent) {
                auto info = TRY(write_down());
                return CreatedSandbox{std::move(info),   source_,      std::move(*agent),
                                      {.b3_us = b3_us_}, own_stages(), begun_ns_,
                                      unenforced_};
            }
            TRY(stop_.check());
            // What waited may have been dying, as its keeper had: then another, or from nothing.
            if (!waited || agent.error().code != Code::unavailable)
                return std::unexpected(std::move(agent).error());
            discard();
        }
    }

  private:
    void discard() {
        (void)stop_.release();
        if (directory_.empty())
            return;
        if (process_.pid > 0)
            (void)kill_process(process_, Clock::now() + std::chrono::seconds(10));
        (void)end_and_remove(directory_);
        process_ = {};
        lock_.reset();
        directory_.clear();
        source_ = CloneSource::cold;
    }

    // Of the pool: a clone that waits is ours by a rename, and told to run before anything else.
    Status take_waiting() {
        stdfs::path target = replaced_ != nullptr ? TRY(new_directory_name(home_, spec_.id))
                                                  : run_directory(home_, spec_.id);
        for (;;) {
            auto taken = TRY(take_clone(home_, spec_.template_name, target));
            if (!taken)
                return {};
            directory_ = target;
            lock_ = std::move(taken->lock);
            source_ = taken->source;
            stages_.mark("take");
            auto handover = TRY(read_handover(target));
            process_ = handover.process;
            agent_state_ = handover.agent;
            TRY(see_network(handover.network));
            if (give_go(target, {.disk = spec_.quotas.io, .network = spec_.quotas.net})) {
                stages_.mark("go");
                return {};
            }
            process_ = {};
            TRY(end_and_remove(target));  // it had died
            directory_.clear();
        }
    }

    // Of a waiting clone, `ahead` is what its network follows already (Handover::network).
    Status see_network(const std::string& ahead) {
        network_follows_ = !ahead.empty() && ahead == spec_.network.line();
        if (ahead.empty() || network_follows_)
            return {};
        return set_waiting_network(directory_, false);
    }

    Status start_cold() {
        template_lock_ = TRY(TemplateLock::share(home_, spec_.template_name));
        auto source = TRY(load_template(home_, spec_.template_name));
        agent_state_ = source.agent;
        stages_.mark("template");
        auto made = TRY(make_new_directory(home_, spec_.id));
        directory_ = made.first;
        lock_ = std::move(made.second);
        if (replaced_ == nullptr)
            TRY(take_name());
        auto arguments = restore_arguments(source, TRY(name_disk(home_, directory_)).string());
        for (const char* word :
             {"--vsock", kVsockName, "--control", kControlName, "--serial", "file:console.log"})
            arguments.push_back(word);
        if (spec_.stage_times)
            arguments.push_back("--stage-times");
        std::ranges::copy(rate_arguments(spec_.quotas), std::back_inserter(arguments));
        UniqueFd tap;
        if (source.network) {
            tap = TRY(make_card_network(directory_, TRY(complete_policy(spec_.network))));
            std::ranges::copy(card_arguments(false), std::back_inserter(arguments));
            stages_.mark("network");
        }
        bool cpu_checked = has_run_here(source.directory);
        if (cpu_checked)
            arguments.push_back("--cpu-checked");
        auto program = TRY(Home::program("spore-vmm"));
        auto spot = CgroupSpot::make(directory_,
                                     cgroup_quotas({}, {source.memory_bytes, source.disk_bytes}));
        stages_.mark("cgroup");
        process_ = TRY(start_sealed(home_, spec_.template_name, check_progress(), [&] {
            return start_vmm(program, arguments, directory_, directory_ / "vmm.log", deadline_,
                             tap.get(), &spot);
        }));
        // Without the note the next clone compares again; no reason to fail this one.
        if (auto noted = cpu_checked ? Status() : note_run_here(source.directory); !noted)
            spec_.progress("the CPU check of '" + spec_.template_name +
                           "' could not be noted: " + noted.error().message);
        return {};
    }

    // Comparing gigabytes is not what the deadline is for.
    Progress check_progress() {
        return [this](const std::string& text) {
            deadline_ = std::min(std::max(deadline_, Clock::now() + spec_.limit), spec_.deadline);
            spec_.progress(text);
        };
    }

    Status take_name() {
        stdfs::path target = run_directory(home_, spec_.id);
        if (::renameat2(AT_FDCWD, directory_.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) !=
            0)
            return fail_errno("sandbox '" + spec_.id + "'");
        directory_ = target;
        return {};
    }

    // The new one's directory and the old one's change names: whoever looks finds either, whole.
    Status take_place() {
        stdfs::path target = run_directory(home_, spec_.id);
        if (::renameat2(AT_FDCWD, directory_.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) !=
            0)
            return fail_errno("taking the place of '" + spec_.id + "'");
        // What cannot be removed now has a name by which the next command does it.
        (void)end_and_remove(std::exchange(directory_, target));
        return {};
    }

    // One message to the agent, one answer: B3. It is on its way while the VM is still being made.
    Result<AgentClient> confirm() {
        stdfs::path socket = directory_ / kVsockName;
        auto agent = agent_state_ ? TRY(AgentClient::attach(socket, kAgentPort, *agent_state_))
                                  : TRY(connect_agent(directory_, deadline_));
        TRY(agent.send_identity(TRY(make_identity(spec_))));
        stages_.mark("send");
        TRY(open_network());
        // While the guest is at it, and before anything of the user's can run in it.
        Quotas had;
        had.io = spec_.quotas.io;  // these came with its go, or by its command line
        had.net = spec_.quotas.net;
        auto quotas = TRY(QuotaChange::begin(directory_, had, spec_.quotas, size_));
        if (spec_.quotas != Quotas{})
            stages_.mark("limits");
        TRY(agent.confirm_identity(deadline_));
        TRY(quotas.finish(deadline_));
        if (quotas.disk_bytes() != 0)
            TRY(agent.grow_root(deadline_, quotas.disk_bytes()));
        unenforced_ = quotas.unenforced();
        if (policy_.mode != NetworkMode::none && !network_follows_)
            std::ranges::copy(network_lacks(directory_), std::back_inserter(unenforced_));
        stages_.mark("confirmed");
        b3_us_ = (monotonic_ns() - begun_ns_) / 1000;
        return agent;
    }

    // While the guest takes its identity; before that it runs nothing that could use it.
    Status open_network() {
        if (policy_.mode == NetworkMode::none || network_follows_)
            return {};  // its gate is closed, or open already to what was asked for
        if (!has_network(directory_))
            return fail(Code::invalid_argument,
                        "network '" + spec_.network.mode + "': template '" + spec_.template_name +
                            "' was made without a network card; make it with spore template "
                            "create --network egress");
        TRY(follow_policy(directory_, TRY(complete_policy(spec_.network)), spec_.network, process_,
                          spec_.quotas));
        stages_.mark("open");
        return {};
    }

    Result<SandboxInfo> write_down() {
        SandboxInfo info;
        SandboxRecord& record = info.record;
        record.id = spec_.id;
        record.template_name = spec_.template_name;
        record.created_unix_ms = replaced_ != nullptr ? replaced_->created_unix_ms : unix_ms_now();
        record.labels = spec_.labels;
        record.environment = spec_.environment;
        record.owner = spec_.owner;
        record.quotas = spec_.quotas;
        record.process = process_;
        if (has_network(directory_))
            record.network = spec_.network;
        TRY(stop_.release());
        TRY(save_record(directory_, record));
        stages_.mark("record");
        if (replaced_ != nullptr)
            TRY(take_place());
        finished_ = true;
        lock_.reset();
        info.alive = true;
        return info;
    }

    std::vector<StageTime> own_stages() const {
        std::vector<StageTime> stages;
        for (const StageTimer::Stage& stage : stages_.stages())
            stages.push_back({stage.name, us_between(begun_ns_, stage.end_ns)});
        return stages;
    }

    const Home& home_;
    const SandboxSpec& spec_;
    const NetworkPolicy& policy_;
    GuestSize size_;
    Clock::time_point deadline_;
    const SandboxRecord* replaced_;
    uint64_t begun_ns_;
    StageTimer stages_;
    stdfs::path directory_;
    std::optional<DirectoryLock> lock_;
    std::optional<TemplateLock> template_lock_;  // of a cold one, until it has its record
    std::optional<AgentCarried> agent_state_;
    ProcessIdentity process_;
    EndOnStop stop_{spec_.stop};
    CloneSource source_ = CloneSource::cold;
    bool network_follows_ = false;  // what was asked for
    uint64_t b3_us_ = 0;
    std::vector<Unenforced> unenforced_;
    bool finished_ = false;
};

}  // namespace

Status learn_times(const Home& home, CreatedSandbox& created) {
    auto control = TRY(VmmClient::connect(run_directory(home, created.info.record.id)));
    constexpr std::string_view kStage = "stage.";
    auto status = TRY(control.status(Clock::now() + std::chrono::seconds(10)));
    uint64_t entry_us = 0;
    for (const auto& [name, value] : status.counters) {
        int64_t since = us_between(created.begun_monotonic_ns, value);
        if (name == "built_monotonic_ns" && since > 0)
            created.boundaries.b1_us = static_cast<uint64_t>(since);
        if (name == "first_entry_monotonic_ns" && since > 0)
            entry_us = static_cast<uint64_t>(since);
        if (name == "first_exit_monotonic_ns" && since > 0)
            created.boundaries.b2_us = static_cast<uint64_t>(since);
        if (name.starts_with(kStage))
            created.stages.push_back({"vmm." + name.substr(kStage.size()), since});
    }
    auto& at = created.boundaries;
    if (at.b2_us == 0 || at.b2_us > at.b3_us)
        at.b2_us = entry_us;
    // Stable, but not by stable_sort: that of libstdc++ 12 is no more than deprecated to clang.
    auto& stages = created.stages;
    for (auto next = stages.begin(); next != stages.end(); ++next)
        std::rotate(
            std::ranges::upper_bound(stages.begin(), next, next->end_us, {}, &StageTime::end_us),
            next, next + 1);
    return {};
}

namespace {

// A guest's memory is as large as its image. Reading the template, which parses it, is on the
// request's path for those alone that ask for another disk than its.
Result<GuestSize> check_quotas_for(const Home& home, const SandboxSpec& spec) {
    GuestSize size;
    struct stat image = {};
    if (spec.quotas.disk_max == 0 && spec.quotas.memory_max != 0 &&
        ::stat((home.templates() / spec.template_name / kMemoryFile).c_str(), &image) == 0) {
        size.memory_bytes = static_cast<uint64_t>(image.st_size);
    } else if (spec.quotas.memory_max != 0 || spec.quotas.disk_max != 0) {
        auto source = TRY(load_template(home, spec.template_name));
        size = {source.memory_bytes, source.disk_bytes};
    }
    TRY(check_quotas(spec.quotas, {.guest_memory_bytes = size.memory_bytes,
                                   .disk_bytes = spec.quotas.disk_max != 0 ? size.disk_bytes : 0}));
    return size;
}

Result<CreatedSandbox> make_sandbox(const Home& home, const SandboxSpec& spec,
                                    Clock::time_point deadline, const SandboxRecord* replaced) {
    uint64_t begun_ns = monotonic_ns();
    auto policy = TRY(parse_policy(spec.network));
    TRY(check_template_owner(home, spec.template_name, spec.owner));
    auto size = TRY(check_quotas_for(home, spec));
    auto create = [&] {
        return Creation(home, spec, policy, size, deadline, replaced, begun_ns).run();
    };
    auto made = create();
    if (!made && made.error().code == Code::already_exists && replaced == nullptr) {
        // Or it is what is left of one whose creator died.
        TRY(clear_if_abandoned(run_directory(home, spec.id)));
        if (!stdfs::exists(run_directory(home, spec.id)))
            made = create();
    }
    // What a wait said whose VM was ended is no news.
    if (!made && spec.stop.stop_requested())
        made = fail(Code::unavailable, "the call was cancelled");
    return made;
}

SandboxSpec spec_of(const SandboxRecord& record, const RestartSpec& wanted) {
    SandboxSpec spec;
    spec.id = record.id;
    spec.template_name = record.template_name;
    spec.environment = record.environment;
    spec.labels = record.labels;
    spec.owner = record.owner;
    spec.network = record.network.value_or(NetworkWords());
    spec.quotas = record.quotas;
    spec.limit = wanted.limit;
    spec.deadline = wanted.deadline;
    spec.stop = wanted.stop;
    spec.progress = wanted.progress;
    return spec;
}

}  // namespace

Result<CreatedSandbox> create_sandbox(const Home& home, const SandboxSpec& requested) {
    auto deadline = std::min(Clock::now() + requested.limit, requested.deadline);
    SandboxSpec spec = requested;
    if (spec.id.empty())
        spec.id = TRY(random_name());
    TRY(check_name("sandbox", spec.id));
    TRY(check_name("template", spec.template_name));
    auto made = make_sandbox(home, spec, deadline, nullptr);
    if (!made)
        return std::unexpected(std::move(made).error().within("sandbox '" + spec.id + "'"));
    return made;
}

Result<CreatedSandbox> restart_sandbox(const Home& home, const std::string& id,
                                       const RestartSpec& wanted) {
    auto deadline = std::min(Clock::now() + wanted.limit, wanted.deadline);
    auto [lock, info] = TRY(hold_sandbox(home, id));
    if (info.alive && !wanted.running_too)
        return fail(Code::unavailable,
                    "sandbox '" + id + "': is running; --force ends all that is in it");
    auto made = make_sandbox(home, spec_of(info.record, wanted), deadline, &info.record);
    clear_cgroups();  // of the old one, if it is torn down by now
    if (!made)
        return std::unexpected(std::move(made).error().within("sandbox '" + id + "'"));
    return made;
}

}  // namespace spore
