// Quotas as people write them, and as a cgroup gets them.
#include "hypervisor/sandbox/quotas.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/quota_limits.h"
#include "hypervisor/sandbox/cgroup_quotas.h"
#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/sandbox_quotas.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

std::string why_not(const QuotaWords& words) {
    auto quotas = with_words({}, words);
    EXPECT_FALSE(quotas.has_value());
    return quotas ? "" : quotas.error().message;
}

TEST(Quotas, ReadsEachAndKeepsWhatIsNotGiven) {
    QuotaWords words;
    words.cpu_max = "0.5";
    words.cpu_weight = "200";
    words.memory_max = "512M";
    words.pids_max = "100";
    words.disk_max = "4G";
    words.io_max = "50M,ops=1000";
    words.net_max = "packets=500";
    auto quotas = with_words({}, words);
    ASSERT_TRUE(quotas.has_value()) << quotas.error().message;
    EXPECT_EQ(quotas->cpu_max_millis, 500u);
    EXPECT_EQ(quotas->cpu_weight, 200u);
    EXPECT_EQ(quotas->memory_max, 512 * limits::kMiB);
    EXPECT_EQ(quotas->pids_max, 100u);
    EXPECT_EQ(quotas->disk_max, 4 * limits::kGiB);
    EXPECT_EQ(quotas->io.bytes.per_second, 50 * limits::kMiB);
    EXPECT_EQ(quotas->net.operations.per_second, 500u);

    QuotaWords change;
    change.cpu_max = "none";
    change.pids_max = "none";
    auto changed = with_words(*quotas, change);
    ASSERT_TRUE(changed.has_value());
    EXPECT_EQ(changed->cpu_max_millis, 0u);
    EXPECT_EQ(changed->pids_max, 0u);
    EXPECT_EQ(changed->memory_max, quotas->memory_max);
    EXPECT_EQ(changed->io, quotas->io);
}

TEST(Quotas, ReadsThousandthsOfAProcessor) {
    for (auto [text, millis] :
         {std::pair("0.05", 50u), {"1", 1000u}, {"2.5", 2500u}, {"0.125", 125u}}) {
        QuotaWords words;
        words.cpu_max = text;
        auto quotas = with_words({}, words);
        ASSERT_TRUE(quotas.has_value()) << text;
        EXPECT_EQ(quotas->cpu_max_millis, millis) << text;
    }
    for (const char* text :
         {"", "0", "0.04", ".5", "1.", "1.2345", "-1", "1e3", "half", "999999"}) {
        QuotaWords words;
        words.cpu_max = text;
        EXPECT_NE(why_not(words).find("cpu-max"), std::string::npos) << text;
    }
}

TEST(Quotas, RefusesLessThanAGuestNeedsAndNamesTheBound) {
    QuotaWords words;
    words.memory_max = "63M";
    EXPECT_NE(why_not(words).find("must be at least 64M"), std::string::npos);
    words = {};
    words.pids_max = "7";
    EXPECT_NE(why_not(words).find("from 8 to"), std::string::npos);
    words = {};
    words.cpu_weight = "10001";
    EXPECT_NE(why_not(words).find("from 1 to 10000"), std::string::npos);
    for (const char* bad : {"0", "1M1", "5000", "100000G"}) {
        words = {};
        words.disk_max = bad;
        EXPECT_NE(why_not(words).find(std::string("disk-max '") + bad + "'"), std::string::npos)
            << why_not(words);
    }
}

TEST(Quotas, ADiskIsNeverMadeSmaller) {
    Quotas quotas;
    quotas.disk_max = limits::kGiB;
    EXPECT_TRUE(check_quotas(quotas, {.disk_bytes = limits::kGiB}).has_value());
    for (uint64_t wanted : {limits::kGiB, uint64_t{0}}) {
        quotas.disk_max = wanted;
        auto checked = check_quotas(quotas, {.disk_bytes = 2 * limits::kGiB});
        ASSERT_FALSE(checked.has_value());
        EXPECT_EQ(checked.error().code, Code::invalid_argument);
        EXPECT_EQ(checked.error().message,
                  "disk-max '" + (wanted == 0 ? "none" : std::to_string(wanted)) +
                      "': its disk has 2147483648 bytes already, and can only grow");
    }
}

TEST(Quotas, RefusesMoreThanThereIs) {
    Quotas quotas;
    quotas.cpu_max_millis = 2500;
    auto checked = check_quotas(quotas, {.host_cpus = 2});
    ASSERT_FALSE(checked.has_value());
    EXPECT_EQ(checked.error().code, Code::resource_exhausted);
    EXPECT_EQ(checked.error().message, "cpu-max '2.500': this host has 2 processors");
    EXPECT_TRUE(check_quotas(quotas, {.host_cpus = 4}).has_value());
    quotas = {};
    quotas.memory_max = 512 * limits::kMiB;
    auto memory = check_quotas(quotas, {.guest_memory_bytes = 256 * limits::kMiB});
    ASSERT_FALSE(memory.has_value());
    EXPECT_EQ(memory.error().code, Code::resource_exhausted);
}

TEST(Quotas, AGuestsMemoryIsHeldToItsSizeAndAStatedOverhead) {
    GuestSize size{256 * limits::kMiB, limits::kGiB};
    uint64_t overhead = vmm_overhead_bytes(size.memory_bytes, size.disk_bytes);
    EXPECT_GE(overhead, limits::kVmmOwnBytes);
    EXPECT_LE(overhead, 64 * limits::kMiB);
    EXPECT_EQ(cgroup_quotas({}, size).memory_max, size.memory_bytes + overhead);
    Quotas quotas;
    quotas.memory_max = 128 * limits::kMiB;
    EXPECT_EQ(cgroup_quotas(quotas, size).memory_max, size.memory_bytes + overhead)
        << "pages that its commands have given back are still the VM's";
    auto agent = agent_limits(quotas, {});
    ASSERT_TRUE(agent.has_value());
    EXPECT_EQ(agent->memory_bytes, 128 * limits::kMiB - limits::kGuestOwnBytes);
    EXPECT_FALSE(agent_limits(quotas, quotas).has_value()) << "nothing to tell it";
}

class QuotaFiles : public testing::Test {
  protected:
    void put(const char* name, const std::string& text = "") {
        std::ofstream(directory / name) << text;
    }
    std::string get(const char* name) {
        std::ifstream file(directory / name);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    const ScratchDirectory scratch{"quotas"};
    const stdfs::path& directory = scratch.path();
};

TEST_F(QuotaFiles, ACgroupGetsThemInItsOwnWords) {
    for (const char* name : {"cpu.max", "cpu.weight", "memory.max", "pids.max"})
        put(name);
    CgroupQuotas quotas{500, 200, 1 << 28, 544};
    auto set = set_cgroup_quotas(directory, quotas);
    ASSERT_TRUE(set.has_value()) << set.error().message;
    EXPECT_TRUE(set->empty());
    EXPECT_EQ(get("cpu.max"), "10000 20000");
    EXPECT_EQ(get("cpu.weight"), "200");
    EXPECT_EQ(get("memory.max"), "268435456");
    EXPECT_EQ(get("pids.max"), "544");
    for (const char* name : {"cpu.max", "cpu.weight", "memory.max", "pids.max"})
        put(name);
    ASSERT_TRUE(set_cgroup_quotas(directory, {0, 0, 1 << 28, 544}, quotas).has_value());
    EXPECT_EQ(get("cpu.max"), "max 20000");
    EXPECT_EQ(get("cpu.weight"), "100");
    EXPECT_EQ(get("memory.max"), "") << "what has not changed is not written";
}

TEST_F(QuotaFiles, WhatAHostDoesNotHaveIsToldAndNotSet) {
    put("pids.max");
    auto set = set_cgroup_quotas(directory, {500, 0, 1 << 28, 544});
    ASSERT_TRUE(set.has_value());
    ASSERT_EQ(set->size(), 2u);
    EXPECT_EQ(set->at(0).name, "memory_max");
    EXPECT_EQ(set->at(1).name, "cpu_max");
    EXPECT_NE(set->at(1).why.find("has no cpu.max"), std::string::npos);
    EXPECT_FALSE(stdfs::exists(directory / "cpu.max"));
    auto none = set_cgroup_quotas({}, {500, 0, 0, 0});
    ASSERT_TRUE(none.has_value());
    EXPECT_EQ(none->size(), 1u);
}

TEST_F(QuotaFiles, ReadsWhatACgroupHasCounted) {
    put("cpu.stat", "usage_usec 1234567\nuser_usec 1\nthrottled_usec 77\n");
    put("cpu.max", "10000 20000\n");
    put("memory.current", "4096\n");
    put("memory.max", "max\n");
    put("memory.events", "low 0\noom 3\noom_kill 2\n");
    put("pids.current", "5\n");
    auto usage = read_cgroup_usage(directory);
    EXPECT_EQ(usage.cpu_us, 1234567u);
    EXPECT_EQ(usage.throttled_us, 77u);
    EXPECT_EQ(usage.cpu_max_millis, 500u);
    EXPECT_EQ(usage.memory_bytes, 4096u);
    EXPECT_EQ(usage.memory_max, 0u);
    EXPECT_EQ(usage.oom_kills, 2u);
    EXPECT_EQ(usage.tasks, 5u);
    EXPECT_FALSE(usage.tasks_max.has_value());
    EXPECT_FALSE(read_cgroup_usage({}).cpu_us.has_value());
}

// A host with both versions: the cgroup is in the one without controllers.
class QuotaFilesV1 : public QuotaFiles {
  protected:
    QuotaFilesV1() {
        for (const char* path :
             {"unified/spore/x", "cpu/spore/x", "memory/spore/x", "pids/spore/x"})
            stdfs::create_directories(directory / path);
        cgroup = directory / "unified/spore/x";
    }
    stdfs::path cgroup;
};

TEST_F(QuotaFilesV1, WhatTheHostHasInCgroupV1IsSetThere) {
    for (const char* name :
         {"cpu/spore/x/cpu.cfs_period_us", "cpu/spore/x/cpu.cfs_quota_us", "cpu/spore/x/cpu.shares",
          "memory/spore/x/memory.limit_in_bytes", "pids/spore/x/pids.max"})
        put(name);
    ASSERT_TRUE(prepare_cgroup_quotas(cgroup).has_value());
    CgroupQuotas quotas{500, 200, 1 << 28, 544};
    auto set = set_cgroup_quotas(cgroup, quotas);
    ASSERT_TRUE(set.has_value()) << set.error().message;
    EXPECT_TRUE(set->empty());
    EXPECT_EQ(get("cpu/spore/x/cpu.cfs_period_us"), "20000");
    EXPECT_EQ(get("cpu/spore/x/cpu.cfs_quota_us"), "10000");
    EXPECT_EQ(get("cpu/spore/x/cpu.shares"), "2048");
    EXPECT_EQ(get("memory/spore/x/memory.limit_in_bytes"), "268435456");
    EXPECT_EQ(get("pids/spore/x/pids.max"), "544");
    put("cpu/spore/x/cpu.cfs_quota_us");
    put("cpu/spore/x/cpu.shares");
    ASSERT_TRUE(set_cgroup_quotas(cgroup, {}, quotas).has_value());
    EXPECT_EQ(get("cpu/spore/x/cpu.cfs_quota_us").substr(0, 2), "-1");
    EXPECT_EQ(get("cpu/spore/x/cpu.shares"), "1024");
    EXPECT_EQ(get("pids/spore/x/pids.max").substr(0, 3), "max");
}

TEST_F(QuotaFilesV1, TheCgroupItselfComesFirst) {
    for (const char* name : {"unified/spore/x/memory.max", "memory/spore/x/memory.limit_in_bytes"})
        put(name);
    auto set = set_cgroup_quotas(cgroup, {0, 0, 1 << 28, 0});
    ASSERT_TRUE(set.has_value() && set->empty());
    EXPECT_EQ(get("unified/spore/x/memory.max"), "268435456");
    EXPECT_EQ(get("memory/spore/x/memory.limit_in_bytes"), "");
}

TEST_F(QuotaFilesV1, ACounterpartThatIsNotThereIsTold) {
    stdfs::remove(directory / "cpu/spore/x");
    auto set = set_cgroup_quotas(cgroup, {500, 0, 0, 0});
    ASSERT_TRUE(set.has_value());
    ASSERT_EQ(set->size(), 1u);
    EXPECT_NE(set->at(0).why.find("cpu/spore/x is not there"), std::string::npos);
    EXPECT_FALSE(read_cgroup_usage(cgroup).cpu_max_millis.has_value());
}

TEST_F(QuotaFilesV1, IsReadTogether) {
    put("unified/spore/x/cpu.stat", "usage_usec 1234567\nuser_usec 1\n");
    put("cpu/spore/x/cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 77123\n");
    put("cpu/spore/x/cpu.cfs_quota_us", "10000\n");
    put("cpu/spore/x/cpu.cfs_period_us", "20000\n");
    put("memory/spore/x/memory.usage_in_bytes", "4096\n");
    put("memory/spore/x/memory.limit_in_bytes", "9223372036854771712\n");
    put("memory/spore/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
    put("pids/spore/x/pids.current", "5\n");
    put("pids/spore/x/pids.max", "544\n");
    auto usage = read_cgroup_usage(cgroup);
    EXPECT_EQ(usage.cpu_us, 1234567u);
    EXPECT_EQ(usage.throttled_us, 77u);
    EXPECT_EQ(usage.cpu_max_millis, 500u);
    EXPECT_EQ(usage.memory_bytes, 4096u);
    EXPECT_EQ(usage.memory_max, 0u) << "as many as there can be";
    EXPECT_EQ(usage.oom_kills, 2u);
    EXPECT_EQ(usage.tasks, 5u);
    EXPECT_EQ(usage.tasks_max, 544u);
    put("cpu/spore/x/cpu.cfs_quota_us", "-1\n");
    EXPECT_EQ(read_cgroup_usage(cgroup).cpu_max_millis, 0u);
}

TEST_F(QuotaFiles, ARecordKeepsThemAndOlderOnesHaveNone) {
    SandboxRecord record;
    record.id = "one";
    record.quotas.cpu_max_millis = 500;
    record.quotas.memory_max = 1 << 28;
    record.quotas.pids_max = 9;
    record.quotas.io = {{50 << 20, 1 << 20}, {1000, 7}};
    record.quotas.net = {{}, {500, 50}};
    ASSERT_TRUE(save_record(directory, record).has_value());
    auto loaded = load_record(directory);
    ASSERT_TRUE(loaded.has_value() && *loaded);
    EXPECT_EQ((*loaded)->quotas, record.quotas);
    record.quotas = {};
    ASSERT_TRUE(save_record(directory, record).has_value());
    EXPECT_EQ(get(kRecordFile).find("quotas"), std::string::npos);
    EXPECT_EQ((*load_record(directory))->quotas, Quotas{});
}

}  // namespace
}  // namespace spore
