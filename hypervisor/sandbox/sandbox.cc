#include "hypervisor/sandbox/sandbox.h"

#include <signal.h>

#include <algorithm>

#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/sandbox_remains.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/snapshot/state.h"

namespace spore {

namespace stdfs = std::filesystem;
namespace {

constexpr std::string_view kNew = ".new-";
constexpr std::string_view kGonePrefix = ".gone-";

// Names of directories that are no sandbox; 63 is what a file's name has room for beside an ID.
Result<stdfs::path> passing_directory(const Home& home, std::string_view kind,
                                      const std::string& id) {
    return home.sandboxes() / (std::string(kind) + id + TRY(random_name()).substr(2));
}

std::optional<SandboxInfo> info_of(SandboxRecord record) {
    SandboxInfo info;
    info.alive = is_alive(record.process);
    info.record = std::move(record);
    return info;
}

}  // namespace

stdfs::path run_directory(const Home& home, const std::string& id) {
    return home.sandboxes() / id;
}

Result<stdfs::path> new_directory_name(const Home& home, const std::string& id) {
    return passing_directory(home, kNew, id);
}

Result<std::pair<stdfs::path, DirectoryLock>> make_new_directory(const Home& home,
                                                                 const std::string& id) {
    // Before it is locked, somebody may take it for what is left of a dead process's and clear it.
    constexpr int kTries = 100;
    for (int tries = 0; tries < kTries; tries++) {
        auto directory = TRY(passing_directory(home, kNew, id));
        TRY(make_directory(directory));
        if (auto lock = DirectoryLock::take(directory); lock && lock->holds(directory))
            return std::pair(directory, std::move(*lock));
    }
    return fail(Code::unavailable, home.sandboxes().string() + ": others clear every directory");
}

Status end_and_remove(const stdfs::path& directory) {
    ProcessIdentity process;
    if (auto record = load_record(directory); record && *record) {
        process = (*record)->process;
    } else if (auto control = VmmClient::connect(directory)) {
        // Its creator died before it wrote down whose process it is. (A VMM that has nobody to tell
        // that it is ready ends by itself.)
        auto peer = control->peer();
        auto found = peer ? identify_process(*peer) : std::unexpected(peer.error());
        if (found)
            process = *found;
    }
    TRY(signal_process(process, SIGKILL));
    // In a cgroup of its own is what its creator did not live to know of, too.
    if (stdfs::path cgroup = cgroup_of_directory(directory); !cgroup.empty() && process.pid <= 0)
        kill_cgroup(cgroup);
    return remove_clone(directory);
}

Result<stdfs::path> name_disk(const Home& home, const stdfs::path& directory) {
    stdfs::path disk = home.disks() / (TRY(random_name()).substr(3) + ".img");
    stdfs::path link = directory / disk_layer_file(0);
    if (::symlink(disk.c_str(), link.c_str()) != 0)
        return fail_errno(link.string());
    return disk;
}

Status remove_clone(const stdfs::path& directory) {
    std::error_code error;
    stdfs::path disk = stdfs::read_symlink(directory / disk_layer_file(0), error);
    if (!error && ::unlink(disk.c_str()) != 0 && errno != ENOENT)
        return fail_errno(disk.string());
    TRY(remove_card_network(directory));
    return remove_sandbox_tree(directory);
}

Status clear_if_abandoned(const stdfs::path& directory) {
    auto lock = DirectoryLock::take(directory);
    if (!lock)
        return {};
    auto record = load_record(directory);
    if (record && *record)
        return {};
    return end_and_remove(directory);
}

Result<SandboxInfo> find_sandbox(const Home& home, const std::string& id) {
    TRY(check_name("sandbox", id));
    auto record = TRY(load_record(run_directory(home, id)));
    if (!record)
        return fail(Code::not_found, "sandbox '" + id + "': there is none of that name");
    return *info_of(std::move(*record));
}

Result<HeldSandbox> hold_sandbox(const Home& home, const std::string& id) {
    TRY(check_name("sandbox", id));
    auto directory = run_directory(home, id);
    auto lock = DirectoryLock::take(directory);
    // Looked up behind the lock: what another has changed until then is in it.
    auto info = TRY(find_sandbox(home, id));
    if (!lock || !lock->holds(directory))
        return fail(Code::unavailable,
                    "sandbox '" + id + "': is being created, changed or destroyed");
    return HeldSandbox{std::move(*lock), std::move(info)};
}

Result<std::vector<SandboxInfo>> list_sandboxes(const Home& home) {
    std::vector<SandboxInfo> sandboxes;
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(home.sandboxes(), error)) {
        std::string name = entry.path().filename();
        if (name.starts_with(kGonePrefix) || name.starts_with(kNew)) {
            if (auto lock = DirectoryLock::take(entry.path()))
                TRY(end_and_remove(entry.path()));
            continue;
        }
        if (!check_name("sandbox", name))
            continue;
        if (auto record = TRY(load_record(entry.path())))
            sandboxes.push_back(*info_of(std::move(*record)));
        else
            TRY(clear_if_abandoned(entry.path()));
    }
    if (error)
        return fail_errno(home.sandboxes().string(), error.value());
    clear_cgroups();
    std::ranges::sort(sandboxes, {}, [](const SandboxInfo& info) {
        return std::pair(info.record.created_unix_ms, info.record.id);
    });
    return sandboxes;
}

// Its name is free at once. The rest is this process's, or, should it die, the next command's.
Status destroy_sandbox(const Home& home, const std::string& id) {
    TRY(check_name("sandbox", id));
    stdfs::path directory = run_directory(home, id);
    auto not_found = [&] {
        return fail(Code::not_found, "sandbox '" + id + "': there is none of that name");
    };
    auto lock = DirectoryLock::take(directory);
    if (!lock && !stdfs::exists(directory))
        return not_found();
    if (!lock)
        return fail(Code::unavailable, "sandbox '" + id + "': is being created or destroyed");
    auto gone = TRY(passing_directory(home, kGonePrefix, id));
    if (::rename(directory.c_str(), gone.c_str()) != 0)
        return errno == ENOENT ? not_found() : fail_errno(directory.string());
    TRY(end_and_remove(gone));
    // Its own cgroup is empty when the kernel has torn its VM down, which nobody waits for here;
    // those of earlier ones are by now.
    clear_cgroups();
    return {};
}

}  // namespace spore
