// A jailed spore-vmm whose guest (guest/attack.c) does everything wrong: it neither crashes nor
// hangs nor grows, answers its control socket all the while, and another VM beside it is well. The
// attack is snapshotted in its midst, and goes on in a clone in the jail.
//
// SPORE_HOSTILE_OPERATIONS is how many operations, SPORE_HOSTILE_MACHINE_OPERATIONS how many of the
// machine's (a quarter), SPORE_HOSTILE_SEED which; the seed is printed.

#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <regex>

#include "hypervisor/base/console_limits.h"
#include "hypervisor/base/limits.h"
#include "hypervisor/base/log_limits.h"
#include "hypervisor/sandbox/vmm_process.h"
#include "tests/bad_input/support/vmm_bench.h"
#include "tests/hostile/peers.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kOperationsDefault = 1'000'000;
// What spore-vmm may have beside the guest's memory: its own, and what waits for slow host
// programs.
constexpr uint64_t kGrowthBytesMax = 64 << 20, kGuestBytes = 64 << 20;
// Its own, and the connections that its vsock allows a guest and the host's programs to have.
constexpr size_t kDescriptorsMax = 100 + limits::kVsockConnectionsMax + limits::kVsockClientsMax;
constexpr int kAnswerMs = 20'000;

Clock::time_point soon() {
    return Clock::now() + std::chrono::milliseconds(kAnswerMs);
}

uint64_t environment(const char* name, uint64_t otherwise) {
    const char* value = std::getenv(name);
    return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

struct Target {
    const char* name;
    unsigned device;  // virtio 1.2 §5; 0: serial port, ports, holes and configuration alone
    Words options;
    Words counters;            // of which each must have counted: the attack has come to something
    Words clone_options = {};  // if they differ
};

void PrintTo(const Target& target, std::ostream* out) {
    *out << target.name;
}

const Target kTargets[] = {
    {"block_raw", 2, {"--disk", "raw"}, {"block0.guest_errors", "block0.reads", "block0.writes"}},
    {"block_layered",
     2,
     {"--disk", "top,layer=base,size=16M"},
     {"block0.guest_errors", "block0.reads", "block0.writes"},
     {"--disk", "clone,layer=base,layer=saved/disk-0.img:saved/disk-0.map"}},
    {"net", 1, {"--net", "socket=net"}, {"net0.guest_errors", "net0.tx_frames"}},
    {"vsock", 19, {"--vsock", "v"}, {"vsock.guest_errors"}},
    {"rng", 4, {}, {"rng.guest_errors"}},
    {"machine", 0, {}, {"console.bytes"}},
};

class Hostile : public VmmBench, public ::testing::WithParamInterface<Target> {
  protected:
    void SetUp() override {
        VmmBench::SetUp();
        if (IsSkipped())
            return;
        stdfs::create_directory(here() / "beside");
        for (const char* disk : {"raw", "base"})
            write_file(here() / disk, std::string(16 << 20, 'd'));
        start_neighbour();
    }
    void TearDown() override {
        for (ProcessIdentity* process : {&neighbour_, &attacker_}) {
            if (process->pid > 0) {
                EXPECT_TRUE(kill_process(*process, soon()));
            }
        }
    }

    void start_neighbour() {
        auto started = start_vmm(SPORE_VMM_PATH,
                                 {"--kernel", AGENT_GUEST_PATH, "--memory", "32M", "--vsock", "v",
                                  "--serial", "none", "--control", "control"},
                                 here() / "beside", here() / "beside/log", soon());
        ASSERT_TRUE(started) << started.error().message;
        neighbour_ = *started;
        wait_for([&] { return vsock_answers(here() / "beside/v", kAnswerMs); }, "the neighbour");
    }

    template <typename Condition>
    void wait_for(Condition condition, const char* what) {
        for (auto limit = soon(); !condition(); ::usleep(10'000))
            ASSERT_LT(Clock::now(), limit) << what;
    }

    void start(Words arguments, const Words& own) {
        arguments.insert(arguments.end(), own.begin(), own.end());
        for (const char* each : {"--control", "control", "--serial", "file:console"})
            arguments.push_back(each);
        auto started = start_vmm(SPORE_VMM_PATH, arguments, here(), here() / "log", soon());
        // The kernel lets go of a ring's files, and of their locks, behind the end of its process.
        for (auto limit = soon();
             !started && Clock::now() < limit &&
             started.error().message.find("already in use") != std::string::npos;
             ::usleep(10'000)) {
            stdfs::remove(here() / "log");
            started = start_vmm(SPORE_VMM_PATH, arguments, here(), here() / "log", soon());
        }
        ASSERT_TRUE(started) << started.error().message << read_file(here() / "log");
        attacker_ = *started;
    }

    // What holds at any moment. False once the VM has ended by itself.
    bool is_well() {
        auto client = VmmClient::connect(here());
        auto status = client ? client->status(soon()) : std::unexpected(client.error());
        if (!status) {
            wait_for([&] { return !is_alive(attacker_); }, "neither answers nor ends");
            return false;
        }
        counters_ = status->counters;
        stdfs::path process = "/proc/" + std::to_string(attacker_.pid);
        uint64_t anonymous = 0;
        std::istringstream lines(read_file(process / "status"));
        for (std::string line; std::getline(lines, line);) {
            if (line.starts_with("RssAnon:"))
                anonymous = std::strtoull(line.c_str() + 8, nullptr, 10) << 10;
        }
        EXPECT_LE(anonymous, kGuestBytes + kGrowthBytesMax);
        std::error_code ended;
        auto descriptors = stdfs::directory_iterator(process / "fd", ended);
        if (!ended) {
            EXPECT_LE(std::distance(begin(descriptors), end(descriptors)), kDescriptorsMax);
        }
        EXPECT_TRUE(vsock_answers(here() / "beside/v", kAnswerMs)) << "the neighbour";
        return true;
    }

    uint64_t counter(const std::string& name) const {
        for (const auto& [each, value] : counters_) {
            if (each == name)
                return value;
        }
        ADD_FAILURE() << "no counter " << name;
        return 0;
    }

    void attack(uint64_t operations, uint64_t seed);
    void expect_bounded_log() const;
    void snapshot_and_quit() {
        auto client = VmmClient::connect(here());
        ASSERT_TRUE(client) << client.error().message << read_file(here() / "log");
        for (auto done : {client->snapshot(here() / "saved", {}, soon()), client->quit(soon())})
            ASSERT_TRUE(done) << done.error().message;
        wait_for([&] { return !is_alive(attacker_); }, "the end of the first");
    }

    ProcessIdentity neighbour_, attacker_;
    std::vector<std::pair<std::string, uint64_t>> counters_;
};

// One attack, with a seed, until the guest ends its machine.
void Hostile::attack(uint64_t operations, uint64_t seed) {
    const Target& target = GetParam();
    std::cout << target.name << ": seed " << seed << ", " << operations << " operations\n";
    for (const char* name : {"console", "log", "net", "top", "clone"})
        stdfs::remove(here() / name);
    stdfs::remove_all(here() / "saved");
    stdfs::create_directory(here() / "saved");
    NetPeer net(here() / "net");
    VsockPeer vsock(here() / "v");
    start({"--kernel", ATTACK_GUEST_PATH, "--memory", "64M", "--cmdline",
           "device=" + std::to_string(target.device) + " seed=" + std::to_string(seed) +
               " ops=" + std::to_string(operations)},
          target.options);
    if (HasFatalFailure())
        return;
    wait_for([&] { return read_file(here() / "console").find("begins\n") != std::string::npos; },
             "the attack");
    snapshot_and_quit();
    if (HasFatalFailure())
        return;
    start({"--restore", "saved", "--jail"},
          target.clone_options.empty() ? target.options : target.clone_options);
    if (HasFatalFailure())
        return;
    while (is_well() && !HasFailure())
        ::usleep(100'000);
}

// The log says which devices the guest has broken, and nothing else; not each time.
void Hostile::expect_bounded_log() const {
    const std::regex failure(
        R"(\S+ warning (\w+): queue \d+: [^;]+; it needs a reset \(failure (\d+)\))");
    std::string log = read_file(here() / "log");
    std::istringstream lines(log);
    std::map<std::string, uint64_t> told;
    for (std::string line; std::getline(lines, line);) {
        std::smatch parts;
        ASSERT_TRUE(std::regex_match(line, parts, failure)) << line;
        EXPECT_TRUE(limits::is_told(std::stoull(parts[2]))) << line;
        told[parts[1]]++;
    }
    // One process until the snapshot, and one behind it.
    constexpr uint64_t kLinesMax = 2 * (limits::kFailuresTold + 60);
    for (const auto& [device, count] : told)
        EXPECT_LE(count, kLinesMax) << device;
    if (GetParam().device == 0)
        return;
    std::string target = GetParam().counters.front();
    target.resize(target.find('.'));
    uint64_t failures = counter(target + ".failures");
    ASSERT_GT(failures, 0U) << target;
    EXPECT_NE(log.find(" " + target + ": queue "), log.npos) << log;
    EXPECT_NE(log.find("(failure " + std::to_string(std::bit_floor(failures)) + ")"), log.npos)
        << failures << " failures of " << target << "\n"
        << log;
}

TEST_P(Hostile, AttacksInVain) {
    uint64_t operations = environment("SPORE_HOSTILE_OPERATIONS", kOperationsDefault);
    if (GetParam().device == 0)  // each is an exit, where of the others' a few in a hundred are
        operations = environment("SPORE_HOSTILE_MACHINE_OPERATIONS", operations / 4);
    uint64_t seed = environment("SPORE_HOSTILE_SEED", std::random_device{}());
    attack(operations, seed);
    std::string console = read_file(here() / "console");
    EXPECT_LE(console.size(), 2 * limits::kConsoleLogBytesMax) << "of two processes";
    // A full log has no room for the last words; a VM that ended otherwise says so in its own log.
    EXPECT_TRUE(console.ends_with("done\n") || console.size() >= limits::kConsoleLogBytesMax)
        << console.size() << " bytes; " << read_file(here() / "log");
    expect_bounded_log();
    for (const auto& [name, value] : counters_) {
        if (name.find('.') != name.npos && value > 0)
            std::cout << "  " << name << " " << value << "\n";
    }
    for (const std::string& name : GetParam().counters)
        EXPECT_GT(counter(name), 0U) << name;
}

INSTANTIATE_TEST_SUITE_P(Devices, Hostile, ::testing::ValuesIn(kTargets),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace spore::test
