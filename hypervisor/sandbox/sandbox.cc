#include "hypervisor/sandbox/sandbox.h"

#include <sys/random.h>

#include "hypervisor/base/clock.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/sandbox/vmm_process.h"

namespace spore {

using Clock = std::chrono::steady_clock;

namespace {

std::filesystem::path disk_directory(const Home& home, const std::string& id) {
    return home.sandboxes() / id;
}

ProcessIdentity process_of(const SandboxRecord& record) {
    return {record.pid, record.pid_start_ticks};
}

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
    return identity;
}

// What is left of a sandbox when its record is all that is known: VM, files, record. Safe to
// repeat.
Status clear_away(const Home& home, Store& store, const SandboxRecord& record) {
    auto limit = Clock::now() + std::chrono::seconds(10);
    if (record.state != SandboxState::creating) {
        TRY(kill_process(process_of(record), limit));
    } else if (auto control = VmmClient::connect(run_directory(home, record.id))) {
        // Its creator died after the VM had begun, before anybody wrote down its process. (A VMM
        // that has nobody to tell that it is ready ends by itself.)
        if (auto status = control->status(limit)) {
            if (auto vmm = identify_process(status->pid))
                TRY(kill_process(*vmm, limit));
        }
    }
    TRY(remove_tree(run_directory(home, record.id)));
    TRY(remove_tree(disk_directory(home, record.id)));
    return store.remove(record.id);
}

// Nobody is at work on it any more, and it is not whole. A `creating` record holds its creator;
// what is being destroyed may be destroyed twice.
bool is_abandoned(const SandboxRecord& record) {
    return record.state == SandboxState::destroying ||
           (record.state == SandboxState::creating && !is_alive(process_of(record)));
}

// The steps between an empty directory and a sandbox that has confirmed its identity.
Result<Boundaries> clone(const Home& home, const SandboxSpec& spec, const TemplateInfo& source,
                         ProcessIdentity& vmm, uint64_t begun_ns, Clock::time_point deadline) {
    auto program = TRY(Home::program("spore-vmm"));
    std::filesystem::path disk = disk_directory(home, spec.id);
    std::filesystem::path run = run_directory(home, spec.id);
    TRY(make_directory(disk));
    TRY(make_directory(run));
    vmm = TRY(start_vmm(program,
                        {"--restore", source.directory.string(), "--disk",
                         (disk / "disk-0.img").string(), "--vsock", kVsockName, "--control",
                         kControlName, "--serial", "file:" + (disk / "console.log").string()},
                        run, disk / "vmm.log", deadline));
    // One message, one answer, where the template has a connection for it.
    auto agent = source.agent
                     ? TRY(AgentClient::attach(run / kVsockName, kAgentPort, *source.agent))
                     : TRY(connect_agent(run, deadline));
    TRY(agent.identify(TRY(make_identity(spec)), deadline));
    Boundaries boundaries;
    boundaries.b3_us = (monotonic_ns() - begun_ns) / 1000;
    auto control = TRY(VmmClient::connect(run));
    for (const auto& [name, value] : TRY(control.status(deadline)).counters) {
        if (name == "built_monotonic_ns" && value > begun_ns)
            boundaries.b1_us = (value - begun_ns) / 1000;
        if (name == "first_exit_monotonic_ns" && value > begun_ns)
            boundaries.b2_us = (value - begun_ns) / 1000;
    }
    return boundaries;
}

}  // namespace

std::filesystem::path run_directory(const Home& home, const std::string& id) {
    return home.run() / id;
}

Result<SandboxInfo> create_sandbox(const Home& home, const SandboxSpec& requested) {
    uint64_t begun_ns = monotonic_ns();
    auto deadline = Clock::now() + requested.limit;
    SandboxSpec spec = requested;
    if (spec.id.empty())
        spec.id = TRY(random_name());
    TRY(check_name("sandbox", spec.id));
    auto source = TRY(load_template(home, spec.template_name));
    auto store = TRY(Store::open(home.store()));

    SandboxInfo info;
    SandboxRecord& record = info.record;
    record.id = spec.id;
    record.template_name = spec.template_name;
    record.created_unix_ms = unix_ms_now();
    record.labels = spec.labels;
    record.environment = spec.environment;
    record.owner = spec.owner;
    auto self = TRY(identify_process(::getpid()));
    record.pid = self.pid;
    record.pid_start_ticks = self.start_ticks;
    if (auto found = TRY(store.find(spec.id)); found && is_abandoned(*found))
        TRY(clear_away(home, store, *found));
    TRY(store.add(record));

    ProcessIdentity vmm;
    auto made = clone(home, spec, source, vmm, begun_ns, deadline);
    if (made) {
        record.state = SandboxState::running;
        record.pid = vmm.pid;
        record.pid_start_ticks = vmm.start_ticks;
        if (auto kept = store.update(record); !kept)
            made = std::unexpected(std::move(kept).error());
    }
    if (!made) {
        (void)kill_process(vmm, Clock::now() + std::chrono::seconds(10));
        record.state = SandboxState::creating;
        (void)clear_away(home, store, record);
        return std::unexpected(std::move(made).error().within("sandbox '" + spec.id + "'"));
    }
    info.alive = true;
    info.boundaries = *made;
    return info;
}

Result<SandboxInfo> find_sandbox(const Home& home, const std::string& id) {
    TRY(check_name("sandbox", id));
    auto store = TRY(Store::open(home.store()));
    auto record = TRY(store.find(id));
    if (!record || is_abandoned(*record))
        return fail(Code::not_found, "sandbox '" + id + "': there is none of that name");
    return SandboxInfo{
        *record, record->state == SandboxState::running && is_alive(process_of(*record)), {}};
}

Result<std::vector<SandboxInfo>> list_sandboxes(const Home& home) {
    auto store = TRY(Store::open(home.store()));
    std::vector<SandboxInfo> sandboxes;
    for (const SandboxRecord& record : TRY(store.list())) {
        if (is_abandoned(record)) {
            TRY(clear_away(home, store, record));
            continue;
        }
        bool alive = record.state == SandboxState::running && is_alive(process_of(record));
        sandboxes.push_back({record, alive, {}});
    }
    return sandboxes;
}

Status destroy_sandbox(const Home& home, const std::string& id) {
    TRY(check_name("sandbox", id));
    auto store = TRY(Store::open(home.store()));
    auto record = TRY(store.find(id));
    if (!record)
        return fail(Code::not_found, "sandbox '" + id + "': there is none of that name");
    if (record->state == SandboxState::creating && !is_abandoned(*record))
        return fail(Code::unavailable, "sandbox '" + id + "': is still being created, by process " +
                                           std::to_string(record->pid));
    if (record->state == SandboxState::running) {
        record->state = SandboxState::destroying;
        TRY(store.update(*record));
    }
    return clear_away(home, store, *record);
}

}  // namespace spore
