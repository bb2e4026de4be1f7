// Runs in a guest beside the real agent (tests/guest/run-agent), talks to it over the guest's own
// vsock loopback as a host would, and says on the console what it found: "probe: ok WHAT" or
// "probe: FAILED WHAT", and at the end "probe: done".

#include <linux/vm_sockets.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_client.h"

namespace spore {
namespace {

using namespace std::chrono_literals;

AgentClient::Deadline soon() {
    return std::chrono::steady_clock::now() + 60s;
}

void report(bool good, const std::string& what) {
    std::printf("probe: %s %s\n", good ? "ok" : "FAILED", what.c_str());
    std::fflush(stdout);
}

void expect(const std::string& what, const Status& status) {
    report(status.has_value(), status ? what : what + ": " + status.error().message);
}

UniqueFd connect_loopback() {
    sockaddr_vm address = {};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_LOCAL;
    address.svm_port = limits::kAgentPort;
    while (true) {
        UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (socket &&
            ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0)
            return socket;
        std::this_thread::sleep_for(20ms);  // the agent does not listen yet
    }
}

class Probe {
  public:
    explicit Probe(AgentClient& agent) : agent_(agent) {}

    std::string shell(const std::string& script) {
        std::string out;
        const auto take = [&out](std::span<const std::byte> bytes) {
            out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            return Status();
        };
        const auto result = agent_.exec({.argv = {"/bin/busybox", "sh", "-c", script}},
                                        {.on_stdout = take, .on_stderr = take}, soon());
        if (!result)
            return "error: " + result.error().message;
        while (out.ends_with('\n'))
            out.pop_back();
        return result->exit_status == 0 ? out
                                        : out + " [status " + std::to_string(result->exit_status) +
                                              " " + result->message + "]";
    }
    void expect_output(const std::string& what, const std::string& script,
                       const std::string& output) {
        const std::string got = shell(script);
        report(got == output, got == output ? what : what + ": got '" + got + "'");
    }

    void check_boot() {
        expect_output("PID 1 is the agent", "cat /proc/1/comm", "init");
        expect_output("root is the disk", "grep -c '^/dev/vda / ext4 rw' /proc/mounts", "1");
        expect_output("the initramfs is gone from sight", "test -e /init || echo gone", "gone");
        expect_output("the late file systems are mounted",
                      "for m in /proc /sys /dev /dev/pts /dev/shm /run /sys/fs/cgroup; do "
                      "grep -q \" $m \" /proc/mounts || echo $m; done",
                      "");
        expect_output("the loopback interface is up",
                      "busybox ip -o link show lo | grep -c LOWER_UP", "1");
        expect_output("the image's host name", "hostname", "imagehost");
        expect_output("commands have a group of their own", "cat /proc/self/cgroup",
                      "0::/commands");
        expect_output("the agent is spared by the OOM killer", "cat /proc/1/oom_score_adj",
                      "-1000");
        expect_output("standard devices", "echo x | cat /dev/stdin", "x");
        expect_output("orphans are reaped",
                      "(sh -c 'sleep 0.05 & exit' &); sleep 0.5; ps -o stat | grep Z; true", "");
        expect_output("SIGKILL does not end the agent", "kill -9 1; echo alive", "alive");
        const std::string resident = shell("awk '/VmRSS/{print $2}' /proc/1/status");
        report(std::atoi(resident.c_str()) > 0 && std::atoi(resident.c_str()) <= 4096,
               "resident memory: " + resident + " KiB");
    }

    void check_grow() {
        const std::string before = shell("df -k / | tail -1 | awk '{print $2}'");
        expect("grow_root", agent_.grow_root(soon()));
        const std::string after = shell("df -k / | tail -1 | awk '{print $2}'");
        report(std::atoi(after.c_str()) > std::atoi(before.c_str()) + 50'000,
               "the root file system has grown from " + before + " to " + after + " KiB");
        expect("grow_root again", agent_.grow_root(soon()));
    }

    void check_identity() {
        const std::string boot = shell("cat /proc/sys/kernel/random/boot_id");
        report(boot == agent_.info().boot_id, "boot ID is the one of HelloReply");
        // Counts as long as it is not frozen.
        shell(
            "(i=0; while :; do i=$((i+1)); echo $i >/run/count; done) >/dev/null 2>&1 & sleep 0.2");
        expect("prepare_snapshot", agent_.prepare_snapshot(soon()));
        report(shell("echo x").find("no identity yet") != std::string::npos,
               "nothing runs before an identity");
        const auto frozen_count = read_count();
        std::this_thread::sleep_for(300ms);
        report(read_count() == frozen_count && frozen_count != "", "what ran is frozen");

        AgentIdentity identity = {.hostname = "clone-7",
                                  .machine_id = "0123456789abcdef0123456789abcdef",
                                  .wall_clock_ns = 2'000'000'000'000'000'000};
        identity.network = AgentNetwork{.mac = {2, 0, 0, 0, 0, 7},
                                        .address = "10.9.8.7",
                                        .prefix_bits = 24,
                                        .gateway = "10.9.8.1",
                                        .dns = {"10.9.8.1"}};
        expect("identify", agent_.identify(identity, soon()));
        expect_output("host name", "hostname; cat /etc/hostname", "clone-7\nclone-7");
        expect_output("hosts", "grep clone /etc/hosts", "127.0.1.1\tclone-7");
        expect_output("machine ID", "cat /etc/machine-id", identity.machine_id);
        report(shell("date +%s").starts_with("20000000"), "clock stepped");
        const std::string renewed = shell("cat /proc/sys/kernel/random/boot_id");
        report(renewed.size() == 36 && renewed != boot, "boot ID renewed: " + renewed);
        expect_output("MAC", "cat /sys/class/net/eth0/address", "02:00:00:00:00:07");
        expect_output("address", "ip -4 -o addr show eth0 | grep -c 10.9.8.7/24", "1");
        expect_output("route", "ip route | grep -c 'default via 10.9.8.1 dev eth0'", "1");
        expect_output("resolver", "cat /etc/resolv.conf", "nameserver 10.9.8.1");
        report(read_count_changes(), "what was frozen runs on");
        expect("identify again", agent_.identify(identity, soon()));
        const std::string again = shell("cat /proc/sys/kernel/random/boot_id");
        report(again.size() == 36 && again != renewed, "boot ID renewed again");
        shell("pkill -f run/count; killall busybox");
    }

  private:
    // By way of this process, which is in no frozen group. Its root is what was the initramfs:
    // empty, so it mounts a /proc of its own to see PID 1's files.
    static std::string read_count() {
        ::mkdir("/proc", 0755);
        if (::access("/proc/1", F_OK) != 0)
            ::mount("proc", "/proc", "proc", 0, nullptr);
        char text[64] = {};
        if (FILE* file = std::fopen("/proc/1/root/run/count", "r")) {
            if (std::fgets(text, sizeof(text), file) == nullptr)
                text[0] = 0;
            std::fclose(file);
        }
        return text;
    }
    static bool read_count_changes() {
        const std::string before = read_count();
        for (int i = 0; i < 1000; ++i) {
            if (const std::string now = read_count(); !now.empty() && now != before)
                return true;
            std::this_thread::sleep_for(10ms);
        }
        return false;
    }

    AgentClient& agent_;
};

int run() {
    auto agent = AgentClient::over(connect_loopback(), soon());
    report(agent.has_value(), "connected");
    if (!agent)
        return 1;
    Probe probe(*agent);
    probe.check_boot();
    probe.check_grow();
    probe.check_identity();
    std::printf("probe: done\n");
    std::fflush(stdout);
    expect("power_off", agent->power_off(soon()));
    return 0;
}

}  // namespace
}  // namespace spore

int main() {
    return spore::run();
}
