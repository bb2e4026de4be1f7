#include "bench/clone_rig.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "hypervisor/base/clock.h"
#include "hypervisor/sandbox/host_mark.h"
#include "hypervisor/sandbox/sandbox_remains.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/working_set.h"

namespace spore::bench {

namespace stdfs = std::filesystem;

namespace {

VmmClient::Deadline soon() {
    return std::chrono::steady_clock::now() + std::chrono::seconds(60);
}

std::string text_of(const stdfs::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Result<std::unique_ptr<NetPeer>> NetPeer::create(const stdfs::path& path) {
    std::unique_ptr<NetPeer> peer(new NetPeer(path));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.string().size() >= sizeof(address.sun_path))
        return fail(Code::invalid_argument, "work directory: " + path.string() + " is too long");
    std::strcpy(address.sun_path, path.c_str());
    peer->socket_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(peer->socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        ::listen(peer->socket_.get(), 1024) != 0)
        return fail_errno(path.string());
    peer->thread_ = std::thread([here = peer.get()] { here->accept_all(); });
    return peer;
}

NetPeer::~NetPeer() {
    ::shutdown(socket_.get(), SHUT_RDWR);
    if (thread_.joinable())
        thread_.join();
}

void NetPeer::accept_all() {
    for (;;) {
        UniqueFd peer(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!peer)
            return;
        // Those whose clone is gone make room.
        std::erase_if(peers_, [](const UniqueFd& old) {
            char byte;
            return ::recv(old.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
        });
        peers_.push_back(std::move(peer));
    }
}

Result<std::unique_ptr<CloneRig>> CloneRig::create(Programs programs, stdfs::path directory) {
    std::error_code error;
    stdfs::create_directories(directory, error);
    if (error)
        return fail(Code::unavailable, directory.string() + ": " + error.message());
    ::setenv("SPORE_HOME", stdfs::absolute(directory / "home").c_str(), 1);
    std::unique_ptr<CloneRig> rig(
        new CloneRig(std::move(programs), stdfs::absolute(directory), TRY(Home::open())));
    rig->peer_ = TRY(NetPeer::create(rig->directory_ / "net"));
    std::ofstream(rig->directory_ / "base.img") << std::string(1 << 20, 'b');
    return rig;
}

const char* path_name(Path path) {
    switch (path) {
        case Path::cold:
            return "cold";
        case Path::ready:
            return "ready";
        case Path::parked:
            return "parked";
    }
    return "unknown";
}

Result<stdfs::path> CloneRig::boot_and_snapshot(unsigned memory_mib) {
    stdfs::path home = directory_ / ("template-" + std::to_string(memory_mib));
    stdfs::path snapshot = home / "snapshot";
    stdfs::create_directories(snapshot);
    std::vector<std::string> arguments = {
        "--kernel", programs_.guest,
        "--memory", std::to_string(memory_mib) + "M",
        "--disk",   "top.img,layer=" + base().string() + ",size=2M"};
    arguments.insert(arguments.end(), {"--net", "socket=" + peer_->path().string(), "--vsock", "v",
                                       "--control", "control", "--serial", "file:console"});
    auto vmm = TRY(start_vmm(programs_.vmm, arguments, home, home / "log", soon()));
    auto control = TRY(VmmClient::connect(home));
    // The guest has found and set up block, network, vsock and rng.
    std::string expected = "4\n";
    for (auto limit = soon(); text_of(home / "console") != expected;) {
        if (std::chrono::steady_clock::now() > limit)
            return fail(Code::timeout, "the guest said '" + text_of(home / "console") +
                                           "', not that its devices are set up");
        TRY(control.status(limit));
    }
    TRY(control.snapshot(snapshot, {}, soon()));
    TRY(control.quit(soon()));
    TRY(kill_process(vmm, soon()));
    return snapshot;
}

// As `template create` does (sandbox/trial_clone.h), but for a guest without an agent: what a clone
// touches until its first exit.
Status CloneRig::record_working_set(const stdfs::path& snapshot) {
    auto clone = TRY(start_cold(snapshot, {"--record-working-set", "record"}));
    TRY(learn_boundaries(clone));
    auto control = TRY(VmmClient::connect(clone.directory));
    TRY(control.pause(soon()));
    TRY(control.quit(soon()));
    TRY(end_process(clone.vmm, 0, soon()));
    auto touched = TRY(read_working_set(clone.directory / "record"));
    TRY(remove_clone(clone.directory));
    UniqueFd file(
        ::open((snapshot / kWorkingSetFile).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno((snapshot / kWorkingSetFile).string());
    return write_working_set(file.get(), touched);
}

Status CloneRig::make_template(unsigned memory_mib) {
    Template made;
    made.snapshot = TRY(boot_and_snapshot(memory_mib));
    TRY(record_working_set(made.snapshot));
    made.zygote = TRY(WaitingClones::create(made.snapshot, base(),
                                            directory_ / ("zygote-" + std::to_string(memory_mib))));
    templates_.emplace(memory_mib, std::move(made));
    return {};
}

Status CloneRig::make_waiting(Path path, unsigned memory_mib, unsigned count, bool with_stages) {
    if (path == Path::cold)
        return {};
    auto& waiting = waiting_[{path, memory_mib, with_stages}];
    while (waiting.size() < count) {
        stdfs::path name = home_.pools() / ("w-" + std::to_string(next_++));
        stdfs::path disk = home_.disks() / name.filename();
        auto network = TRY(connect_unix(directory_, "net", SOCK_STREAM));
        waiting.push_back(
            TRY(templates_.at(memory_mib)
                    .zygote->make(path == Path::parked ? ZygoteStart::built : ZygoteStart::prepared,
                                  name, disk, std::move(network), with_stages)));
        stdfs::create_symlink(disk, name / disk_layer_file(0));
    }
    return {};
}

Result<Clone> CloneRig::start(Path path, unsigned memory_mib, bool with_stages) {
    if (path == Path::cold)
        return start_cold(
            templates_.at(memory_mib).snapshot,
            with_stages ? std::vector<std::string>{"--stage-times"} : std::vector<std::string>{});
    stdfs::path taken;
    {
        std::lock_guard lock(mutex_);
        auto& waiting = waiting_[{path, memory_mib, with_stages}];
        if (waiting.empty())
            return fail(Code::unavailable, "none waits on this path");
        taken = std::move(waiting.back());
        waiting.pop_back();
    }
    return take_waiting(taken, home_.sandboxes() / ("c-" + std::to_string(next_++)));
}

Result<Clone> CloneRig::start_cold(const stdfs::path& snapshot,
                                   const std::vector<std::string>& more) {
    TemplateInfo source;
    source.directory = snapshot;
    source.base = base();
    Clone clone;
    clone.directory = home_.sandboxes() / ("c-" + std::to_string(next_++));
    clone.begun_ns = monotonic_ns();
    if (::mkdir(clone.directory.c_str(), 0700) != 0)
        return fail_errno(clone.directory.string());
    auto arguments = restore_arguments(source, TRY(name_disk(home_, clone.directory)).string());
    arguments.insert(arguments.end(), {"--net", "socket=" + peer_->path().string(), "--vsock", "v",
                                       "--control", "control", "--serial", "file:console"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    bool cpu_checked = has_run_here(snapshot);
    if (cpu_checked)
        arguments.push_back("--cpu-checked");
    auto spot = CgroupSpot::make(clone.directory);
    clone.vmm = TRY(start_vmm(programs_.vmm, arguments, clone.directory, clone.directory / "log",
                              soon(), -1, &spot));
    if (!cpu_checked)
        TRY(note_run_here(snapshot));
    return clone;
}

Status learn_boundaries(Clone& clone) {
    auto control = TRY(VmmClient::connect(clone.directory));
    auto limit = soon();
    while (clone.first_exit_ns == 0) {
        if (std::chrono::steady_clock::now() > limit)
            return fail(Code::timeout, "a clone's guest has not exited once");
        clone.stages.clear();
        for (const auto& [name, value] : TRY(control.status(limit)).counters) {
            if (name == "built_monotonic_ns")
                clone.built_ns = value;
            if (name == "first_exit_monotonic_ns")
                clone.first_exit_ns = value;
            if (name.starts_with("stage."))
                clone.stages.emplace_back(name.substr(6), value);
        }
    }
    return {};
}

Status end_clone(const Clone& clone) {
    TRY(kill_process(clone.vmm, soon()));
    return remove_clone(clone.directory);
}

}  // namespace spore::bench
