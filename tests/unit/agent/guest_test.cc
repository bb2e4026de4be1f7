// Sealing, identity and what they may do when, with a System that is not this machine.

#include "agent/guest.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>

#include "agent/server.h"
#include "hypervisor/sandbox/agent_ports.h"
#include "tests/unit/agent/running_agent.h"

namespace spore {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Keeps a list of what was asked of it in a file, one word a line, and fails where told to.
class FakeSystem : public System {
  public:
    FakeSystem(std::string log, std::string failing)
        : log_(std::move(log)), failing_(std::move(failing)) {}

    Status add_entropy(std::span<const std::byte> entropy) override {
        return note("entropy " + std::to_string(entropy.size()));
    }
    Status step_clock(uint64_t ns) override {
        return note(ns > 1'000'000'000'000'000'000 ? "clock" : "clock wrong");
    }
    Status set_hostname(const std::string& name) override { return note("hostname " + name); }
    Status set_machine_id(const std::string& id) override { return note("machine-id " + id); }
    std::string boot_id() override { return "boot-" + std::to_string(boots_); }
    Status renew_boot_id() override {
        ++boots_;
        return note("boot-id");
    }
    Status configure_network(const NetworkSettings& settings) override {
        return note("network " + std::to_string(settings.prefix_bits) + " " +
                    std::to_string(settings.dns.size()));
    }
    Status shed_identity() override { return note("shed"); }
    Status freeze_commands() override { return note("freeze"); }
    Status thaw_commands() override { return note("thaw"); }
    Status sync_disks() override { return note("sync"); }
    Status grow_root(uint64_t wanted) override {
        if (wanted > disk_bytes) {
            disk_bytes = wanted;  // known when it is asked again
            return fail(Code::unavailable, "not yet");
        }
        return note("grow");
    }
    uint64_t disk_bytes = 1000;
    Status allow_power_off() override { return note("power-off"); }
    Status limit_commands(const CommandLimits& limits) override {
        return note("limits " + std::to_string(limits.processes) + " " +
                    std::to_string(limits.memory_bytes));
    }
    Result<GuestUsage> usage() override {
        return GuestUsage{{3, 4 << 20}, {5, 6 << 20}, 7, 2, 8, 9};
    }

  private:
    Status note(const std::string& what) {
        std::ofstream(log_, std::ios::app) << what << "\n";
        if (!failing_.empty() && what.starts_with(failing_) &&
            !std::filesystem::exists(log_ + ".repaired"))
            return fail(Code::internal, failing_ + " fails here");
        return {};
    }

    std::string log_, failing_;
    int boots_ = 0;
};

class GuestTest : public testing::Test {
  protected:
    void start(const std::string& failing = "") {
        agent.emplace([failing](const std::string& path) {
            FakeSystem system(path + ".log", failing);
            auto server = std::move(*Server::create(system));
            if (server->listen_unix(path))
                (void)server->run();
            ::_exit(0);
        });
        client.emplace(agent->client());
    }
    std::vector<std::string> log() const {
        std::ifstream file(agent->path() + ".log");
        std::vector<std::string> lines;
        for (std::string line; std::getline(file, line);)
            lines.push_back(line);
        return lines;
    }
    Code exec_code() {
        const auto outcome = run(*client, shell("exit 0"));
        return outcome ? Code{-1} : outcome.error().code;
    }
    static AgentIdentity identity() {
        return {.hostname = "clone-1", .machine_id = std::string(32, 'a')};
    }

    static constexpr Code kRuns = Code{-1};
    std::optional<RunningAgent> agent;
    std::optional<AgentClient> client;
};

TEST_F(GuestTest, RunsCommandsWhenFreshlyBooted) {
    start();
    EXPECT_FALSE(client->info().sealed);
    EXPECT_EQ(exec_code(), kRuns);
}

TEST_F(GuestTest, RefusesCommandsBetweenSnapshotAndIdentity) {
    start();
    ASSERT_TRUE(client->prepare_snapshot(soon()));
    EXPECT_THAT(log(), ElementsAre("freeze", "shed", "sync"));
    const auto refused = run(*client, shell("exit 0"));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unavailable);
    EXPECT_THAT(refused.error().message, HasSubstr("no identity yet"));
    EXPECT_TRUE(agent->client().info().sealed);

    ASSERT_TRUE(client->identify(identity(), soon()));
    EXPECT_THAT(log(),
                ElementsAre("freeze", "shed", "sync", "entropy 64", "clock", "hostname clone-1",
                            "machine-id " + std::string(32, 'a'), "boot-id", "thaw"));
    EXPECT_EQ(exec_code(), kRuns);
    const AgentClient later = agent->client();
    EXPECT_FALSE(later.info().sealed);
    EXPECT_EQ(later.info().boot_id, "boot-1");
}

TEST_F(GuestTest, TakesLimitsBehindItsIdentityAndLater) {
    start();
    ASSERT_TRUE(client->prepare_snapshot(soon()));
    const auto sealed = client->set_limits({.processes = 9}, soon());
    ASSERT_FALSE(sealed);
    EXPECT_EQ(sealed.error().code, Code::unavailable);
    AgentIdentity own = identity();
    own.limits = AgentLimits{.processes = 100, .memory_bytes = 64 << 20};
    ASSERT_TRUE(client->identify(own, soon()));
    EXPECT_EQ(log().back(), "limits 100 67108864");
    ASSERT_TRUE(client->set_limits({}, soon()));
    EXPECT_EQ(log().back(), "limits 0 0");
}

TEST_F(GuestTest, LimitsThatFailFailTheIdentity) {
    start("limits");
    ASSERT_TRUE(client->prepare_snapshot(soon()));
    AgentIdentity own = identity();
    own.limits = AgentLimits{.processes = 100};
    const auto confirmed = client->identify(own, soon());
    ASSERT_FALSE(confirmed);
    EXPECT_THAT(confirmed.error().message, HasSubstr("limits fails here"));
}

TEST_F(GuestTest, TellsWhatIsUsedOfItsLimits) {
    start();
    const auto usage = client->usage(soon());
    ASSERT_TRUE(usage) << usage.error().message;
    EXPECT_EQ(usage->processes, 3u);
    EXPECT_EQ(usage->processes_max, 5u);
    EXPECT_EQ(usage->memory_bytes, 4u << 20);
    EXPECT_EQ(usage->memory_bytes_max, 6u << 20);
    EXPECT_EQ(usage->root_bytes, 7u);
    EXPECT_EQ(usage->root_bytes_used, 2u);
    EXPECT_EQ(usage->open_files, 8u);
    EXPECT_EQ(usage->open_files_max, 9u);
    EXPECT_EQ(usage->kept_processes, 0u);
    EXPECT_EQ(usage->kept_processes_max, limits::kProcessesMax);
    EXPECT_EQ(usage->output_bytes_max, limits::kProcessLogsBytesMax);
}

TEST_F(GuestTest, RefusesConnectionsToPortsWhileSealed) {
    start();
    const auto answer = [&] {
        UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        (agent->path() + ".forward").copy(address.sun_path, sizeof(address.sun_path) - 1);
        EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
                  0);
        const Status forwarded = request_forward(socket.get(), "UNIX /no/such/socket", soon());
        return forwarded ? Error{} : forwarded.error();
    };
    EXPECT_EQ(answer().code, Code::not_found);
    ASSERT_TRUE(client->prepare_snapshot(soon()));
    EXPECT_EQ(answer().code, Code::unavailable);
    EXPECT_THAT(answer().message, HasSubstr("no identity yet"));
    ASSERT_TRUE(client->identify(identity(), soon()));
    EXPECT_EQ(answer().code, Code::not_found);
}

class GuestFails : public GuestTest, public testing::WithParamInterface<const char*> {};

TEST_P(GuestFails, AndStaysSealed) {
    start(GetParam());
    AgentIdentity wanted = identity();
    wanted.network = AgentNetwork{.address = "10.0.0.2"};
    const Status failed = client->identify(wanted, soon());
    ASSERT_FALSE(failed);
    EXPECT_THAT(failed.error().message, HasSubstr(std::string(GetParam()) + " fails here"));
    EXPECT_EQ(exec_code(), Code::unavailable);
    std::ofstream(agent->path() + ".log.repaired") << "";
    ASSERT_TRUE(client->identify(wanted, soon()));
    EXPECT_EQ(exec_code(), kRuns);
}

INSTANTIATE_TEST_SUITE_P(Step, GuestFails,
                         testing::Values("entropy", "clock", "hostname", "machine-id", "boot-id",
                                         "network", "thaw"));

TEST_F(GuestTest, StaysSealedWhenTheSnapshotCannotBePrepared) {
    start("sync");
    EXPECT_FALSE(client->prepare_snapshot(soon()));
    EXPECT_EQ(exec_code(), Code::unavailable);
}

TEST_F(GuestTest, RefusesABadIdentityAndChangesNothing) {
    start();
    const auto refuse = [&](auto change) {
        AgentIdentity bad = identity();
        change(bad);
        const Status refused = client->identify(bad, soon());
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Code::invalid_argument) << refused.error().message;
    };
    refuse([](auto& bad) { bad.hostname = ""; });
    refuse([](auto& bad) { bad.hostname = "-a"; });
    refuse([](auto& bad) { bad.hostname = "a b"; });
    refuse([](auto& bad) { bad.hostname = "a\nb"; });
    refuse([](auto& bad) { bad.hostname = std::string(64, 'a'); });
    refuse([](auto& bad) { bad.machine_id = std::string(31, 'a'); });
    refuse([](auto& bad) { bad.machine_id = std::string(32, 'G'); });
    refuse([](auto& bad) { bad.entropy.resize(31); });
    refuse([](auto& bad) { bad.entropy.resize(513); });
    refuse([](auto& bad) { bad.environment = {{"", "x"}}; });
    refuse([](auto& bad) { bad.network = AgentNetwork{.address = "10.0.0"}; });
    refuse([](auto& bad) { bad.network = AgentNetwork{.address = "10.0.0.1", .prefix_bits = 33}; });
    refuse([](auto& bad) { bad.network = AgentNetwork{.gateway = "10.0.0.1"}; });
    refuse([](auto& bad) { bad.network = AgentNetwork{.mac = {1, 2, 3, 4, 5}}; });
    refuse([](auto& bad) { bad.network = AgentNetwork{.mac = {1, 2, 3, 4, 5, 6}}; });
    EXPECT_TRUE(log().empty());
    EXPECT_EQ(exec_code(), kRuns);
}

TEST_F(GuestTest, GivesTheIdentitysEnvironmentToCommands) {
    start();
    AgentIdentity wanted = identity();
    wanted.environment = {{"TOKEN", "one two"}, {"PATH", "/bin:/usr/bin"}};
    wanted.network = AgentNetwork{.mac = {2, 0, 0, 0, 0, 1},
                                  .address = "10.0.0.2",
                                  .prefix_bits = 30,
                                  .gateway = "10.0.0.1",
                                  .dns = {"10.0.0.1", "1.1.1.1"}};
    ASSERT_TRUE(client->identify(wanted, soon()));
    EXPECT_THAT(log(), testing::Contains("network 30 2"));
    EXPECT_EQ(run(*client, shell("echo $TOKEN $PATH"))->out, "one two /bin:/usr/bin\n");
    ExecRequest without = shell("echo ${TOKEN-unset}");
    without.unset = {"TOKEN"};
    EXPECT_EQ(run(*client, without)->out, "unset\n");
}

// What a clone's agent is: greeted and sealed by one host program, then the connection's host end
// is another that knows nothing but the stream IDs used.
TEST_F(GuestTest, ServesAnIdentityAsTheFirstFrameOfAConnectionThatWasCarried) {
    start();
    UniqueFd socket = agent->connect_socket();
    UniqueFd kept(::dup(socket.get()));
    AgentCarried carried;
    {
        auto builder = AgentClient::over(std::move(socket), soon());
        ASSERT_TRUE(builder);
        EXPECT_EQ(run(*builder, shell("echo prepared"))->out, "prepared\n");
        ASSERT_TRUE(builder->prepare_snapshot(soon()));
        carried = builder->carry();
    }
    EXPECT_EQ(carried.protocol, kAgentProtocolMax);
    EXPECT_EQ(carried.last_stream, 3u);
    // In place of spore-vmm, which takes the line.
    int ends[2] = {};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    UniqueFd vmm(ends[1]);
    auto clone = AgentClient::attach(UniqueFd(ends[0]), 1024, carried);
    ASSERT_TRUE(clone);
    EXPECT_TRUE(clone->info().sealed);
    ASSERT_TRUE(clone->send_identity(identity()));
    char bytes[4096];
    const ssize_t count = ::recv(vmm.get(), bytes, sizeof(bytes), 0);
    const std::string_view line = "ATTACH 1024\n";
    ASSERT_GT(count, static_cast<ssize_t>(line.size()));
    EXPECT_EQ(std::string_view(bytes, line.size()), line) << "and the first message behind it";
    const auto rest = static_cast<size_t>(count) - line.size();
    ASSERT_EQ(::send(kept.get(), bytes + line.size(), rest, 0), static_cast<ssize_t>(rest));
    const ssize_t answer = ::recv(kept.get(), bytes, sizeof(bytes), 0);
    ASSERT_GT(answer, 0);
    ASSERT_EQ(::send(vmm.get(), bytes, static_cast<size_t>(answer), 0), answer);
    ASSERT_TRUE(clone->confirm_identity(soon()));
    EXPECT_FALSE(clone->info().sealed);
    EXPECT_EQ(exec_code(), kRuns) << "and for every other connection";
}

// The test holds the message back, as a busy host does.
TEST_F(GuestTest, StepsTheClockAgainWhenTheIdentityWasLongOnItsWay) {
    start();
    ASSERT_TRUE(client->send_identity(identity()));
    const auto late = std::chrono::steady_clock::now() + std::chrono::milliseconds(260);
    while (std::chrono::steady_clock::now() < late)
        ::sched_yield();
    ASSERT_TRUE(client->confirm_identity(soon()));
    EXPECT_GE(std::ranges::count(log(), "clock"), 2);
}

TEST_F(GuestTest, RefusesAllButIdentityWhileSealed) {
    start();
    ASSERT_TRUE(client->prepare_snapshot(soon()));
    EXPECT_EQ(exec_code(), Code::unavailable);
    const Status grown = client->grow_root(soon());
    ASSERT_FALSE(grown);
    EXPECT_EQ(grown.error().code, Code::unavailable);
    EXPECT_THAT(log(), ElementsAre("freeze", "shed", "sync"));
    EXPECT_TRUE(client->ping(soon())) << "which changes nothing";
    ASSERT_TRUE(client->identify(identity(), soon()));
    EXPECT_TRUE(client->grow_root(soon()));
}

TEST_F(GuestTest, EndsAfterItHasConfirmedPowerOff) {
    start();
    ASSERT_TRUE(client->power_off(soon()));
    const Status gone = client->ping(soon());
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, Code::unavailable);
}

TEST_F(GuestTest, WaitsForADiskThatItsKernelDoesNotKnowYetToHaveGrown) {
    start();
    const Status grown = client->grow_root(soon(), 2000);
    EXPECT_TRUE(grown) << grown.error().message;
    EXPECT_THAT(log(), ElementsAre("grow"));
}

TEST_F(GuestTest, GrowsTheRoot) {
    start();
    EXPECT_TRUE(client->grow_root(soon()));
    EXPECT_THAT(log(), ElementsAre("grow"));
}

TEST(DetachedAgent, LeavesThisMachineAlone) {
    RunningAgent agent;
    AgentClient client = agent.client();
    for (const Status& refused :
         {client.power_off(soon()), client.grow_root(soon()), client.prepare_snapshot(soon()),
          client.identify({.hostname = "a", .machine_id = std::string(32, '0')}, soon())}) {
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Code::unavailable);
        EXPECT_THAT(refused.error().message, HasSubstr("not PID 1"));
    }
}

}  // namespace
}  // namespace spore
