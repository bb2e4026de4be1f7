// What a sandbox uses, in the public words: each number is where it belongs.
#include "hypervisor/api/usage_words.h"

#include <gtest/gtest.h>

namespace spore {
namespace {

using std::chrono::microseconds;

// Every number another.
SandboxStats numbered_stats() {
    SandboxStats stats;
    stats.cpu_us = 1;
    stats.cpu_throttled_us = 2;
    stats.memory_bytes = 3;
    stats.memory_max = 4;
    stats.oom_kills = 5;
    stats.disk_bytes = 6;
    stats.disk_max = 7;
    stats.disk = {.read_bytes = 10,
                  .reads = 11,
                  .written_bytes = 12,
                  .writes = 13,
                  .throttled_us = 14,
                  .held_to = {{15, 1000}, {16, 1000}}};
    stats.network = {.rx_bytes = 20,
                     .rx_packets = 21,
                     .rx_throttled_us = 22,
                     .tx_bytes = 23,
                     .tx_packets = 24,
                     .tx_throttled_us = 25,
                     .held_to = {{26, 1000}, {27, 1000}}};
    stats.console = {.bytes = 30, .bytes_max = 31, .dropped_bytes = 32};
    stats.vsock = {.connections = 40, .connections_max = 41, .buffered_bytes = 42, .refused = 43};
    stats.process = {.open_files = 50, .open_files_max = 51, .tasks = 52, .tasks_max = 53};
    stats.passt = {.cpu_us = 80,
                   .throttled_us = 81,
                   .memory_bytes = 82,
                   .memory_max = 83,
                   .tasks = 84,
                   .tasks_max = 85,
                   .cpu_max_millis = 86,
                   .oom_kills = 87};
    stats.resolver = {.cpu_us = 90};
    stats.guest = {.processes = 60,
                   .processes_max = 61,
                   .memory_bytes = 62,
                   .memory_bytes_max = 63,
                   .root_bytes = 64,
                   .root_bytes_used = 65,
                   .open_files = 66,
                   .open_files_max = 67,
                   .kept_processes = 68,
                   .kept_processes_max = 69,
                   .output_bytes = 70,
                   .output_bytes_reserved = 71,
                   .output_bytes_max = 72};
    return stats;
}

TEST(UsageWords, SayOfTheHostsSideWhatItTells) {
    Usage usage = usage_of(numbered_stats());
    EXPECT_EQ(usage.cpu, microseconds(1));
    EXPECT_EQ(usage.cpu_throttled, microseconds(2));
    EXPECT_EQ(usage.memory_bytes, 3u);
    EXPECT_EQ(usage.memory_bytes_max, 4u);
    EXPECT_EQ(usage.oom_kills, 5u);
    EXPECT_EQ(usage.disk_bytes, 6u);
    EXPECT_EQ(usage.disk_bytes_max, 7u);
    EXPECT_EQ(usage.vmm.open_files, 50u);
    EXPECT_EQ(usage.vmm.open_files_max, 51u);
    EXPECT_EQ(usage.vmm.tasks, 52u);
    EXPECT_EQ(usage.vmm.tasks_max, 53u);
}

TEST(UsageWords, SayOfItsDevicesWhatTheyTell) {
    Usage usage = usage_of(numbered_stats());
    ASSERT_TRUE(usage.disk && usage.network && usage.console && usage.connections);
    EXPECT_EQ(usage.disk->read_bytes, 10u);
    EXPECT_EQ(usage.disk->reads, 11u);
    EXPECT_EQ(usage.disk->written_bytes, 12u);
    EXPECT_EQ(usage.disk->writes, 13u);
    EXPECT_EQ(usage.disk->throttled, microseconds(14));
    EXPECT_EQ(usage.disk->held_to.bytes, 15u);
    EXPECT_EQ(usage.disk->held_to.operations, 16u);
    EXPECT_EQ(usage.network->rx_bytes, 20u);
    EXPECT_EQ(usage.network->rx_packets, 21u);
    EXPECT_EQ(usage.network->rx_throttled, microseconds(22));
    EXPECT_EQ(usage.network->tx_bytes, 23u);
    EXPECT_EQ(usage.network->tx_packets, 24u);
    EXPECT_EQ(usage.network->tx_throttled, microseconds(25));
    EXPECT_EQ(usage.network->held_to.bytes, 26u);
    EXPECT_EQ(usage.network->held_to.operations, 27u);
    EXPECT_EQ(usage.console->bytes, 30u);
    EXPECT_EQ(usage.console->bytes_max, 31u);
    EXPECT_EQ(usage.console->dropped_bytes, 32u);
    EXPECT_EQ(usage.connections->open, 40u);
    EXPECT_EQ(usage.connections->open_max, 41u);
    EXPECT_EQ(usage.connections->buffered_bytes, 42u);
    EXPECT_EQ(usage.connections->refused, 43u);
}

TEST(UsageWords, SayOfWhatRunsBesideTheVmWhatItsCgroupTells) {
    Usage usage = usage_of(numbered_stats());
    ASSERT_TRUE(usage.passt && usage.resolver);
    EXPECT_EQ(usage.passt->cpu, microseconds(80));
    EXPECT_EQ(usage.passt->cpu_throttled, microseconds(81));
    EXPECT_EQ(usage.passt->memory_bytes, 82u);
    EXPECT_EQ(usage.passt->memory_bytes_max, 83u);
    EXPECT_EQ(usage.passt->tasks, 84u);
    EXPECT_EQ(usage.passt->tasks_max, 85u);
    EXPECT_EQ(usage.passt->cpus_max, 0.086);
    EXPECT_EQ(usage.passt->oom_kills, 87u);
    EXPECT_EQ(usage.resolver->cpu, microseconds(90));
    EXPECT_FALSE(usage.resolver->cpus_max || usage.resolver->memory_bytes);
    EXPECT_FALSE(usage.resolver->tasks || usage.resolver->tasks_max);
}

TEST(UsageWords, SayOfTheGuestWhatItsAgentTells) {
    Usage usage = usage_of(numbered_stats());
    ASSERT_TRUE(usage.guest);
    EXPECT_EQ(usage.guest->processes, 60u);
    EXPECT_EQ(usage.guest->processes_max, 61u);
    EXPECT_EQ(usage.guest->memory_bytes, 62u);
    EXPECT_EQ(usage.guest->memory_bytes_max, 63u);
    EXPECT_EQ(usage.guest->root_bytes_max, 64u);
    EXPECT_EQ(usage.guest->root_bytes, 65u);
    EXPECT_EQ(usage.guest->open_files, 66u);
    EXPECT_EQ(usage.guest->open_files_max, 67u);
    EXPECT_EQ(usage.guest->kept_processes, 68u);
    EXPECT_EQ(usage.guest->kept_processes_max, 69u);
    EXPECT_EQ(usage.guest->output_bytes, 70u);
    EXPECT_EQ(usage.guest->output_bytes_reserved, 71u);
    EXPECT_EQ(usage.guest->output_bytes_max, 72u);
}

TEST(UsageWords, HaveNoValueForWhatIsNotKnown) {
    SandboxStats stats;
    stats.guest.emplace();  // an agent of an earlier Spore
    stats.why_not.push_back({"disk, network", "it is gone"});
    stats.unenforced.push_back({"cpu_max", "it has no cgroup"});
    Usage usage = usage_of(stats);
    EXPECT_FALSE(usage.disk || usage.network || usage.console || usage.connections);
    EXPECT_FALSE(usage.passt || usage.resolver);
    EXPECT_FALSE(usage.cpu_throttled || usage.memory_bytes_max || usage.oom_kills);
    EXPECT_FALSE(usage.vmm.open_files || usage.vmm.open_files_max || usage.vmm.tasks);
    ASSERT_TRUE(usage.guest);
    EXPECT_FALSE(usage.guest->open_files || usage.guest->kept_processes);
    EXPECT_FALSE(usage.guest->output_bytes || usage.guest->output_bytes_reserved);
    ASSERT_EQ(usage.not_known.size(), 1u);
    EXPECT_EQ(usage.not_known[0].why, "it is gone");
    ASSERT_EQ(usage.not_enforced.size(), 1u);
    EXPECT_EQ(usage.not_enforced[0].name, "cpu_max");
}

}  // namespace
}  // namespace spore
