#include "hypervisor/sandbox/trial_clone.h"

#include <fcntl.h>

#include <algorithm>
#include <iterator>

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/sandbox/vmm_process.h"
#include "hypervisor/sandbox/zygote.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/working_set.h"

namespace spore {

using Clock = std::chrono::steady_clock;

namespace {

using Path = std::filesystem::path;

constexpr const char* kRecord = "record";

// What every clone does first, and the least that one is made for.
Status use(const TemplateInfo& draft, const Path& run, Clock::time_point deadline) {
    auto agent = TRY(AgentClient::attach(run / kVsockName, kAgentPort, *draft.agent));
    AgentIdentity identity;
    identity.hostname = "trial";
    identity.machine_id = std::string(32, '0');
    // Some come with limits: what putting them into force touches is in the set too.
    constexpr uint32_t kProcesses = 1000;
    if (agent.takes_limits())
        identity.limits = AgentLimits{.processes = kProcesses};
    TRY(agent.identify(identity, deadline));
    return run_least_command(agent, deadline);
}

// One clone's life in the empty directory `run`; what it has touched.
Result<WorkingSet> try_clone(const TemplateInfo& draft, const Path& run, EndOnStop& stop,
                             Clock::time_point deadline, int tap) {
    auto arguments = restore_arguments(draft, disk_layer_file(0));
    for (const char* word : {"--vsock", kVsockName, "--control", kControlName, "--serial", "none",
                             "--record-working-set", kRecord})
        arguments.push_back(word);
    if (tap >= 0)
        std::ranges::copy(card_arguments(false), std::back_inserter(arguments));
    auto vmm = TRY(
        start_vmm(TRY(Home::program("spore-vmm")), arguments, run, run / "vmm.log", deadline, tap));
    stop.watch(vmm);
    auto record = [&]() -> Result<WorkingSet> {
        TRY(use(draft, run, deadline));
        auto control = TRY(VmmClient::connect(run));
        TRY(control.pause(deadline));
        TRY(control.quit(deadline));
        // It writes the record, then it ends.
        TRY(end_process(vmm, 0, deadline));
        return read_working_set(run / kRecord);
    };
    auto recorded = record();
    (void)stop.release();
    (void)kill_process(vmm, Clock::now() + std::chrono::seconds(10));
    if (!recorded)
        return std::unexpected(std::move(recorded).error().within("trial clone"));
    return recorded;
}

}  // namespace

Status run_least_command(AgentClient& agent, Clock::time_point deadline) {
    ExecRequest request;
    request.argv = {"/bin/true"};
    TRY(agent.exec(request, {}, deadline));
    return {};
}

Status record_working_set(const TemplateInfo& draft, const Path& run, EndOnStop& stop,
                          Clock::time_point deadline, int tap) {
    TRY(remove_tree(run));
    TRY(make_directory(run));
    auto set = TRY(try_clone(draft, run, stop, deadline, tap));
    Path path = draft.directory / kWorkingSetFile;
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path.string());
    TRY(write_working_set(file.get(), set));
    // The trial made the host forget it; the next clone shall not wait for it.
    UniqueFd image(::open((draft.directory / kMemoryFile).c_str(), O_RDONLY | O_CLOEXEC));
    if (image)
        (void)::posix_fadvise(image.get(), 0, 0, POSIX_FADV_WILLNEED);
    return {};
}

}  // namespace spore
