// The jail from inside, by a program run in it, and from outside, by what /proc says of it.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "hypervisor/jail/jail.h"
#include "tests/jail/harness.h"
#include "tests/jail/probe.h"

namespace spore {
namespace {

using probe::kBroken;
using probe::kRefused;
using probe::kSucceeded;
using ::testing::HasSubstr;

// Everything that holds on a host that refuses nothing.
const char* const kItems[] = {"user",
                              "mount",
                              "pid",
                              "network",
                              "ipc",
                              "uts",
                              "id_maps",
                              "empty_root",
                              "rlimits",
                              "capabilities",
                              "unprivileged_user",
                              "descriptors",
                              "not_dumpable",
                              "no_new_privileges"};

bool is_root() {
    return ::geteuid() == 0;
}

// What `test` returns, in a child of its own: 0 is good.
int in_child(const std::function<int()>& test) {
    pid_t pid = ::fork();
    if (pid == 0)
        ::_exit(test());
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::string namespace_of(int pid, const std::string& kind) {
    std::error_code error;
    return std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/ns/" + kind, error)
        .string();
}

std::map<std::string, std::string> status_of(int pid) {
    std::map<std::string, std::string> fields;
    std::ifstream file("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(file, line);) {
        size_t colon = line.find(":\t");
        if (colon != std::string::npos)
            fields[line.substr(0, colon)] = line.substr(colon + 2);
    }
    return fields;
}

// Both with the host's pinned namespaces and without.
class Jail : public ::testing::TestWithParam<bool> {
  protected:
    void SetUp() override {
        if (!GetParam()) {
            if (is_root()) {
                ASSERT_TRUE(unpin_namespaces());
            }
            return;
        }
        if (!is_root())
            GTEST_SKIP() << "only root can pin namespaces for the whole host";
        auto pinned = pin_namespaces();
        ASSERT_TRUE(pinned) << pinned.error().message;
        ASSERT_TRUE(open_pins().root);
    }
};

TEST_P(Jail, HoldsInEveryItem) {
    auto ended = run_probe("none", "work_as_vcpu");
    ASSERT_EQ(ended.status, kSucceeded) << ended.output;
    for (const char* item : kItems) {
        ASSERT_TRUE(ended.report.contains(item)) << item;
        EXPECT_EQ(ended.report[item], "") << item;
    }
    EXPECT_NE(ended.report["cgroup"], "") << "it was given none";
}

TEST_P(Jail, RefusesWithoutAnyFilterWhatNamespacesAndMissingRightsRefuse) {
    UniqueFd abstract(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    std::string text = "spore-jail-test-" + std::to_string(::getpid());
    std::copy(text.begin(), text.end(), name.sun_path + 1);
    auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
    ASSERT_EQ(::bind(abstract.get(), reinterpret_cast<sockaddr*>(&name), size), 0);
    ASSERT_EQ(::listen(abstract.get(), 4), 0);
    UniqueFd inet(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    ASSERT_EQ(::bind(inet.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(::listen(inet.get(), 4), 0);
    ASSERT_EQ(::getsockname(inet.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);

    for (const auto& attempt : probe::attempts_without_filter()) {
        bool port = attempt.name == std::string("connect_inet");
        auto ended = run_probe("none", attempt.name,
                               port ? ntohs(address.sin_port) : static_cast<uint64_t>(::getpid()));
        EXPECT_EQ(ended.status, kRefused)
            << attempt.name << ": signal " << ended.signal << " " << ended.output;
    }
}

TEST_P(Jail, LooksFromOutsideAsItSays) {
    if (!is_root())
        GTEST_SKIP() << "only root may look into /proc of a process that is not dumpable";
    auto probe = Probe::start("loop", "wait_for_ever");
    ASSERT_TRUE(probe) << probe.error().message;
    ASSERT_TRUE(probe->wait_for("waiting"));
    int pid = probe->process().pid;
    for (const char* kind : {"user", "mnt", "pid", "net", "ipc", "uts"}) {
        EXPECT_NE(namespace_of(pid, kind), "") << kind;
        EXPECT_NE(namespace_of(pid, kind), namespace_of(::getpid(), kind)) << kind;
    }
    auto status = status_of(pid);
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
        EXPECT_EQ(status[set], "0000000000000000") << set;
    EXPECT_EQ(status["NoNewPrivs"], "1");
    EXPECT_EQ(status["Seccomp"], "2");
    EXPECT_EQ(status["Uid"], "65534\t65534\t65534\t65534");
    EXPECT_EQ(status["Gid"], "65534\t65534\t65534\t65534");
    EXPECT_EQ(status["Groups"], " ");
    EXPECT_THAT(status["NSpid"], ::testing::EndsWith("\t1"));

    std::string proc = "/proc/" + std::to_string(pid);
    EXPECT_TRUE(std::filesystem::is_empty(proc + "/root/"));
    EXPECT_TRUE(std::filesystem::is_empty(proc + "/cwd/"));
    std::ifstream mounts(proc + "/mountinfo");
    std::string line, more;
    ASSERT_TRUE(std::getline(mounts, line));
    EXPECT_THAT(line, HasSubstr(" / / ro,nosuid,nodev,noexec"));
    EXPECT_FALSE(std::getline(mounts, more)) << more;
    std::vector<std::string> open;
    for (const auto& entry : std::filesystem::directory_iterator(proc + "/fd"))
        open.push_back(entry.path().filename().string());
    EXPECT_THAT(open, ::testing::UnorderedElementsAre("3", "6", "7"));
    std::ifstream map(proc + "/uid_map");
    unsigned inside = 0, outside = 0, count = 0;
    map >> inside >> outside >> count;
    EXPECT_EQ(inside, 65534u);
    EXPECT_EQ(outside, 65534u);
    EXPECT_EQ(count, 1u);
    std::ifstream limits(proc + "/limits");
    std::stringstream text;
    text << limits.rdbuf();
    EXPECT_THAT(text.str(), ::testing::ContainsRegex("Max core file size +0 +0 "));
    EXPECT_THAT(text.str(), ::testing::ContainsRegex("Max processes +64 +64 "));
}

TEST_P(Jail, EndsBySigtermFromOutsideAlthoughItIsPid1) {
    auto probe = Probe::start("loop", "wait_for_sigterm");
    ASSERT_TRUE(probe) << probe.error().message;
    EXPECT_TRUE(probe->process().own_pids) << probe->process().why_shared;
    ASSERT_TRUE(probe->wait_for("waiting"));
    ASSERT_EQ(::kill(probe->process().pid, SIGTERM), 0);
    EXPECT_EQ(probe->wait().status, kSucceeded);
}

TEST_P(Jail, IsKilledFromOutside) {
    auto probe = Probe::start("zygote", "wait_for_ever");
    ASSERT_TRUE(probe) << probe.error().message;
    ASSERT_TRUE(probe->wait_for("waiting"));
    ASSERT_EQ(::kill(probe->process().pid, SIGKILL), 0);
    EXPECT_EQ(probe->wait().signal, SIGKILL);
}

TEST_P(Jail, LetsALoopAndItsVcpusWork) {
    for (const char* role : {"zygote", "loop"}) {
        auto ended = run_probe(role, "work_as_loop");
        EXPECT_EQ(ended.status, kSucceeded) << role << ": signal " << ended.signal;
    }
    auto ended = run_probe("vcpu", "work_as_vcpu");
    EXPECT_EQ(ended.status, kSucceeded) << "signal " << ended.signal;
}

TEST_P(Jail, LetsALoopMakeAVm) {
    if (::access("/dev/kvm", R_OK | W_OK) != 0)
        GTEST_SKIP() << "/dev/kvm: " << std::strerror(errno);
    auto ended = run_probe("loop", "make_vm");
    EXPECT_EQ(ended.status, kSucceeded) << "signal " << ended.signal;
}

TEST_P(Jail, AbortEndsItAlthoughItIsPid1) {
    auto ended = run_probe("loop", "abort");
    EXPECT_TRUE(ended.signal == SIGABRT || ended.signal == SIGSEGV) << ended.signal;
}

TEST_P(Jail, LetsAZygoteForkWorkersIntoNamespacesOfTheirOwn) {
    for (const char* role : {"none", "zygote"}) {
        auto ended = run_probe(role, "fork_worker");
        EXPECT_EQ(ended.status, kSucceeded) << role << ": signal " << ended.signal;
        EXPECT_EQ(ended.output, "worker\n") << role;
    }
}

TEST_P(Jail, WorkersShareOnlyTheEmptyNetworkWithTheirZygote) {
    if (!is_root())
        GTEST_SKIP() << "only root may look into /proc of a process that is not dumpable";
    auto probe = Probe::start("zygote", "fork_worker", 1, false);
    ASSERT_TRUE(probe) << probe.error().message;
    ASSERT_TRUE(probe->wait_for("\nworker"));
    std::string zygote = std::to_string(probe->process().pid);
    std::ifstream children("/proc/" + zygote + "/task/" + zygote + "/children");
    int worker = 0;
    if (!(children >> worker))
        GTEST_SKIP() << "this kernel has no /proc/PID/task/TID/children";
    for (const char* kind : {"user", "mnt", "pid", "ipc", "uts"})
        EXPECT_NE(namespace_of(worker, kind), namespace_of(probe->process().pid, kind)) << kind;
    EXPECT_EQ(namespace_of(worker, "net"), namespace_of(probe->process().pid, "net"));
    EXPECT_NE(namespace_of(worker, "net"), namespace_of(::getpid(), "net"));
    auto status = status_of(worker);
    EXPECT_EQ(status["CapBnd"], "0000000000000000");
    EXPECT_EQ(status["CapEff"], "0000000000000000");
    EXPECT_EQ(status["Uid"], "65534\t65534\t65534\t65534");
    EXPECT_THAT(status["NSpid"], ::testing::EndsWith("\t1"));

    // The zygote's end is not the worker's.
    UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, worker, 0)));
    ASSERT_TRUE(handle);
    ASSERT_EQ(::kill(probe->process().pid, SIGKILL), 0);
    ASSERT_EQ(::waitid(P_PIDFD, static_cast<id_t>(probe->process().handle.get()), nullptr,
                       WEXITED | WNOWAIT),
              0);
    EXPECT_EQ(::syscall(SYS_pidfd_send_signal, handle.get(), 0, nullptr, 0), 0);
    ASSERT_EQ(::syscall(SYS_pidfd_send_signal, handle.get(), SIGKILL, nullptr, 0), 0);
    EXPECT_EQ(probe->wait().signal, SIGKILL);
}

INSTANTIATE_TEST_SUITE_P(Root, Jail, ::testing::Values(false, true), [](const auto& with) {
    return with.param ? std::string("WithPins") : std::string("WithoutPins");
});

TEST(JailOfOthers, HoldsForAUserWithoutRights) {
    if (!is_root())
        GTEST_SKIP() << "the other tests run without rights already";
    constexpr uid_t kUser = 65533;
    int status = in_child([] {
        if (::setresgid(kUser, kUser, kUser) != 0 || ::setresuid(kUser, kUser, kUser) != 0)
            return 1;
        ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);  // as after an exec
        if (::access(JAIL_PROBE_PATH, X_OK) != 0)
            return 2;
        auto ended = run_probe("loop", "work_as_loop");
        if (ended.status != kSucceeded) {
            std::fprintf(stderr, "signal %d, status %d: %s\n", ended.signal, ended.status,
                         ended.output.c_str());
            return 3;
        }
        for (const char* item : kItems) {
            if (!ended.report.contains(item) || ended.report[item] != "") {
                std::fprintf(stderr, "%s: %s\n", item, ended.report[item].c_str());
                return 4;
            }
        }
        return 0;
    });
    if (status == 2)
        GTEST_SKIP() << JAIL_PROBE_PATH << ": is where other users cannot run it";
    EXPECT_EQ(status, 0);
}

// A user namespace in which no more can be made stands for a host that refuses them to root.
TEST(JailOfOthers, SaysWhatAHostWithoutUserNamespacesLacks) {
    if (!is_root())
        GTEST_SKIP() << "only root can be refused user namespaces alone";
    int status = in_child([] {
        auto put = [](const char* path, const char* text) {
            std::ofstream file(path);
            file << text << std::flush;
            return file.good();
        };
        if (::unshare(CLONE_NEWUSER) != 0 || !put("/proc/self/setgroups", "deny") ||
            !put("/proc/self/uid_map", "0 0 1") || !put("/proc/self/gid_map", "0 0 1") ||
            !put("/proc/sys/user/max_user_namespaces", "0"))
            return 1;
        auto ended = run_probe("loop", "work_as_loop");
        if (ended.status != kSucceeded)
            return 2;
        for (const char* held : {"mount", "pid", "network", "ipc", "uts", "empty_root",
                                 "capabilities", "no_new_privileges"}) {
            if (ended.report[held] != "")
                return 3;
        }
        // Told, each with its reason.
        if (ended.report["user"].empty() || ended.report["rlimits"].empty() ||
            ended.report["unprivileged_user"].empty())
            return 4;
        return 0;
    });
    EXPECT_EQ(status, 0);
}

TEST(Pins, AreMadeOnceAndLetGo) {
    if (!is_root())
        GTEST_SKIP() << "only root can pin namespaces for the whole host";
    auto mounts = [] {
        std::ifstream file("/proc/self/mountinfo");
        size_t count = 0;
        for (std::string line; std::getline(file, line);)
            count++;
        return count;
    };
    ASSERT_TRUE(unpin_namespaces());
    size_t before = mounts();
    for (int round = 0; round < 3; round++) {
        auto pinned = pin_namespaces();
        ASSERT_TRUE(pinned) << pinned.error().message;
    }
    EXPECT_EQ(mounts(), before + 3);
    ASSERT_TRUE(unpin_namespaces());
    EXPECT_EQ(mounts(), before);
    EXPECT_FALSE(open_pins().root);
    ASSERT_TRUE(pin_namespaces());
}

TEST(EnterJail, WantsAProcessWithOneThread) {
    int status = in_child([]() -> int {
        std::thread other([] { ::pause(); });
        auto report = enter_jail(JailOptions{});
        bool refused = !report && report.error().message.find("thread") != std::string::npos;
        ::_exit(refused ? 0 : 1);
    });
    EXPECT_EQ(status, 0);
}

TEST(StartIsolated, SaysWhatStoodInTheWay) {
    ProcessPlan plan;
    plan.program = "/nonexistent/spore-vmm";
    plan.arguments = {"spore-vmm"};
    plan.directory = "/";
    auto started = start_isolated(plan);
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, Code::not_found);
    EXPECT_THAT(started.error().message, HasSubstr("/nonexistent/spore-vmm"));
    plan.program = JAIL_PROBE_PATH;
    plan.directory = "/nonexistent";
    started = start_isolated(plan);
    ASSERT_FALSE(started);
    EXPECT_THAT(started.error().message, HasSubstr("/nonexistent"));
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "it left a child";
}

}  // namespace
}  // namespace spore
