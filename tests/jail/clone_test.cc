// A jailed spore-vmm, started as sandboxes are, on the real /dev/kvm.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "hypervisor/base/limits.h"
#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/sandbox/vmm_process.h"
#include "hypervisor/sandbox/zygote.h"
#include "hypervisor/snapshot/state.h"
#include "tests/bad_input/support/vmm_bench.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;
using namespace std::chrono_literals;

std::chrono::steady_clock::time_point soon() {
    return std::chrono::steady_clock::now() + 30s;
}

class JailedClone : public VmmBench {
  protected:
    void SetUp() override {
        VmmBench::SetUp();
        if (IsSkipped())
            return;
        source_ = TinySnapshot::get();
        ASSERT_NE(source_, nullptr);
        snapshot_ = source_->directory().string();
    }
    void TearDown() override {
        if (process_.pid > 0)
            (void)kill_process(process_, soon());
        clear_cgroups();
    }

    std::string layers() const {
        return "top,layer=" + source_->base().string() + ",layer=" + snapshot_ +
               "/disk-0.img:" + snapshot_ + "/disk-0.map";
    }
    Status start(const std::string& disk) {
        process_ = TRY(start_vmm(SPORE_VMM_PATH,
                                 {"--jail", "--restore", snapshot_, "--disk", disk, "--vsock", "v",
                                  "--control", "control", "--serial", "file:console.log"},
                                 here(), here() / "log", soon()));
        return {};
    }
    std::string log() const { return read_file(here() / "log"); }

    const TinySnapshot* source_ = nullptr;
    std::string snapshot_;
    ProcessIdentity process_;
};

std::vector<std::string> lines_of(const stdfs::path& path, const std::string& start) {
    std::vector<std::string> found;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(start))
            found.push_back(line);
    }
    return found;
}

TEST_F(JailedClone, RunsAndSaysWhatItsJailHolds) {
    auto started = start(layers());
    ASSERT_TRUE(started) << started.error().message << log();
    auto client = VmmClient::connect(here());
    ASSERT_TRUE(client) << client.error().message;
    auto status = client->status(soon());
    ASSERT_TRUE(status) << status.error().message;
    for (const char* item :
         {"user", "mount", "pid", "network", "ipc", "uts", "empty_root", "unprivileged_user",
          "capabilities", "no_new_privileges", "not_dumpable", "rlimits", "descriptors", "seccomp"})
        EXPECT_TRUE(status->jail.holds(item)) << item << ": " << status->jail.missing();
    EXPECT_FALSE(status->jail.holds("cgroup"));

    // Every thread has a filter, and each vCPU's a narrower one on top; the first's, which has made
    // the VM, from the first time on that it was in the guest and is out of it. A pause may come
    // before it was in there.
    int threads = 0, narrower = 0;
    stdfs::path tasks = "/proc/" + std::to_string(process_.pid) + "/task";
    for (auto limit = soon(); std::chrono::steady_clock::now() < limit;) {
        ASSERT_TRUE(client->pause(soon()));
        ASSERT_TRUE(client->resume(soon()));
        threads = narrower = 0;
        for (const auto& task : stdfs::directory_iterator(tasks)) {
            // The kernel's own (kvm-nx-lpage-recovery) runs nothing of the process's.
            if (read_file(task.path() / "comm").starts_with("kvm-"))
                continue;
            threads++;
            ASSERT_EQ(lines_of(task.path() / "status", "Seccomp:"),
                      std::vector<std::string>{"Seccomp:\t2"});
            narrower += lines_of(task.path() / "status", "Seccomp_filters:\t2").size() == 1;
        }
        if (threads >= 2 && narrower == threads - 1)
            break;
    }
    EXPECT_GE(threads, 2);
    EXPECT_EQ(narrower, threads - 1);

    EXPECT_TRUE(client->pause(soon()));
    EXPECT_TRUE(client->resume(soon()));
    stdfs::create_directory(here() / "another");
    auto snapshot = client->snapshot(here() / "another", {}, soon());
    ASSERT_FALSE(snapshot);
    EXPECT_EQ(snapshot.error().code, Code::unavailable);
    EXPECT_TRUE(is_alive(process_)) << log();
    EXPECT_TRUE(client->quit(soon()));
}

TEST_F(JailedClone, EndsInOrderBySigterm) {
    auto started = start(layers());
    ASSERT_TRUE(started) << started.error().message << log();
    ASSERT_EQ(::kill(process_.pid, SIGTERM), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(process_.pid, &status, 0), process_.pid);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status << log();
    process_.pid = 0;
}

TEST_F(JailedClone, RefusesABrokenSnapshotInOrder) {
    std::string state = read_file(source_->directory() / kStateFile);
    state[state.size() / 2] = static_cast<char>(state[state.size() / 2] ^ 1);
    source_->variant(here() / "snap", state);
    snapshot_ = path("snap");
    auto started = start(layers());
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, Code::corrupt) << started.error().message;
}

TEST_F(JailedClone, RefusesADiskWhoseLayersItCannotOpenAnyMore) {
    auto started = start("top");
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, Code::invalid_argument) << started.error().message;
    EXPECT_THAT(started.error().message, ::testing::HasSubstr("disk 0"));
}

TEST_F(JailedClone, NeedsASnapshotAndAConsoleThatIsNoTerminal) {
    expect_refusal({"--jail", "--kernel", "tiny.elf"}, 64, {"jail", "--restore"});
    expect_refusal({"--jail", "--restore", snapshot_}, 64, {"jail", "--serial"});
}

// A worker's files, all in `directory`; what its keeper holds of them.
struct Worker {
    stdfs::path directory;
    UniqueFd ready, lease;
    WorkerFiles files;

    Worker(stdfs::path where, const CgroupSpot& spot) : directory(std::move(where)) {
        auto made = make_worker_files(directory.string(), spot);
        EXPECT_TRUE(made) << made.error().message;
        files = std::move(*made);
        files.disks.emplace_back(
            ::open((directory / "top").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        ready.reset(ends[0]);
        files.ready.reset(ends[1]);
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        files.lease.reset(ends[0]);
        lease.reset(ends[1]);
    }
};

// One process, in each that this host has: what is in none of them has lost its directory.
void expect_in_cgroups_v1(const stdfs::path& cgroup) {
    for (const std::string& controller : cgroup_v1_controllers(cgroup.parent_path())) {
        auto inside = read_file(cgroup_v1_of(cgroup, controller) / "cgroup.procs");
        EXPECT_EQ(std::ranges::count(inside, '\n'), 1) << controller << ": " << inside;
    }
}

TEST_F(JailedClone, IsForkedByAJailedZygoteWhoseEndItOutlives) {
    // Where Home::program() looks: beside the program that asks.
    stdfs::path beside = stdfs::read_symlink("/proc/self/exe").parent_path() / "spore-vmm";
    std::error_code error;
    stdfs::create_symlink(SPORE_VMM_PATH, beside, error);
    ASSERT_TRUE(!error || error == std::errc::file_exists) << error.message();
    TemplateInfo source;
    source.directory = snapshot_;
    source.base = source_->base();
    // In a cgroup each, where this host has any.
    auto zygote_spot = CgroupSpot::make(here());
    auto zygote = Zygote::start(source, here(), soon(), &zygote_spot);
    ASSERT_TRUE(zygote) << zygote.error().message << read_file(here() / "keeper.log");
    std::vector<std::unique_ptr<Worker>> workers;
    std::vector<VmmClient> clients;
    for (ZygoteStart how : {ZygoteStart::prepared, ZygoteStart::built}) {
        stdfs::path directory = here() / ("worker" + std::to_string(workers.size()));
        stdfs::create_directory(directory);
        auto spot = CgroupSpot::make(directory, {.tasks_max = limits::kVmmTasksMax});
        spot.open_to_zygote();
        workers.push_back(std::make_unique<Worker>(directory, spot));
        Worker& worker = *workers.back();
        auto forked = zygote->fork_worker(worker.files, how, soon());
        ASSERT_TRUE(forked) << forked.error().message;
        worker.files = {};
        auto ready = wait_until_ready(worker.ready.get(), soon());
        ASSERT_TRUE(ready) << ready.error().message << read_file(worker.directory / "vmm.log");
        spot.started();
        expect_in_cgroups_v1(cgroup_of_directory(directory));
        auto client = VmmClient::connect(worker.directory);
        ASSERT_TRUE(client) << client.error().message;
        ASSERT_TRUE(client->resume(soon()));
        clients.push_back(std::move(*client));
    }
    {
        Zygote ended = std::move(*zygote);
    }
    std::set<std::string> cgroups = {zygote_spot.text()}, users;
    for (VmmClient& client : clients) {
        auto status = client.status(soon());
        ASSERT_TRUE(status) << status.error().message;
        if (zygote_spot.handle() < 0) {
            EXPECT_EQ(status->jail.missing(), "cgroup: " + zygote_spot.text());
        } else {
            EXPECT_EQ(status->jail.missing(), "");
            auto real = cgroup_of(std::to_string(*client.peer()));
            ASSERT_TRUE(real) << real.error().message;
            EXPECT_TRUE(cgroups.insert(*real).second) << *real << ": another's";
            for (const JailItem& item : status->jail.items) {
                if (item.name == "cgroup") {
                    EXPECT_EQ(item.path, *real);
                }
            }
        }
        EXPECT_TRUE(status->jail.holds("pid"));
        EXPECT_EQ(status->jail.holds("own_user"), ::geteuid() == 0);
        EXPECT_TRUE(status->jail.holds("core_scheduling"));
        if (::geteuid() == 0) {
            auto user = lines_of("/proc/" + std::to_string(*client.peer()) + "/status", "Uid:");
            ASSERT_EQ(user.size(), 1u);
            EXPECT_TRUE(users.insert(user[0]).second) << user[0] << ": another's";
            EXPECT_EQ(user[0].find("65534"), std::string::npos) << user[0];
        }
        EXPECT_TRUE(status->jail.holds("seccomp"));
        // All jailed workers are one user, whose rings together may be more than the usual 8 MiB.
        bool can_lift = ::geteuid() == 0 && ::prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE) == 1;
        stdfs::path limits = "/proc/" + std::to_string(*client.peer()) + "/limits";
        auto locked = lines_of(limits, "Max locked memory");
        ASSERT_EQ(locked.size(), 1u);
        if (can_lift) {
            EXPECT_NE(locked[0].find("unlimited"), std::string::npos) << locked[0];
        }
        EXPECT_TRUE(client.quit(soon()));
    }
}

}  // namespace
}  // namespace spore::test
