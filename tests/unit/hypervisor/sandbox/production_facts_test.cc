// The guide for production, over trees that are no host.
#include "hypervisor/sandbox/production_facts.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

namespace stdfs = std::filesystem;

constexpr const char* kHoles = "/sys/devices/system/cpu/vulnerabilities/";

class ProductionFacts : public testing::Test {
  protected:
    ProductionFacts() {
        tree.root = scratch_.path();
        tree.now_unix_s = 1'735'689'600;  // 2025-01-01
        tree.missing_controllers = {};
        put(std::string(kHoles) + "meltdown", "Not affected");
        put(std::string(kHoles) + "spectre_v1", "Mitigation: usercopy/swapgs barriers");
        put("/sys/devices/system/cpu/smt/active", "0");
        put("/sys/kernel/mm/ksm/run", "0");
        put("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority");
        put("/sys/module/kvm_amd/parameters/npt", "1");
        put("/sys/module/kvm_amd/parameters/nested", "0");
        put("/sys/module/kvm/parameters/enable_vmware_backdoor", "N");
        put("/usr/sbin/nft", "");
        EXPECT_EQ(::chmod((tree.root + "/usr/sbin/nft").c_str(), 0755), 0);
        put("/proc/sys/kernel/pid_max", "4194304");
        put("/proc/sys/kernel/threads-max", "190000");
        put("/proc/sys/user/max_user_namespaces", "95000");
        put("/proc/version",
            "Linux version 6.1.0-26-amd64 (x@y) (gcc 12) #1 SMP PREEMPT_DYNAMIC "
            "Debian 6.1.112-1 (2024-09-30)");
    }

    void put(const std::string& path, const std::string& line) {
        stdfs::create_directories(stdfs::path(tree.root + path).parent_path());
        std::ofstream(tree.root + path) << line << "\n";
    }
    HostFinding find(const std::string& name) {
        for (const HostFinding& finding : examine_for_production(tree)) {
            if (finding.name == name)
                return finding;
        }
        ADD_FAILURE() << "no finding " << name;
        return {};
    }
    void expect_bad(const std::string& name, const std::string& what, const std::string& remedy) {
        HostFinding found = find(name);
        EXPECT_FALSE(found.good) << name;
        EXPECT_FALSE(found.needed) << "Spore works without";
        EXPECT_NE(found.what.find(what), std::string::npos) << found.what;
        EXPECT_NE(found.remedy.find(remedy), std::string::npos) << found.remedy;
        EXPECT_FALSE(found.why.empty());
    }

    const ScratchDirectory scratch_{"facts"};
    HostTree tree;
};

TEST_F(ProductionFacts, AGoodHostHasNothingToPutRight) {
    auto findings = examine_for_production(tree);
    EXPECT_EQ(findings.size(), 10u);
    for (const HostFinding& finding : findings) {
        EXPECT_TRUE(finding.good) << finding.name << ": " << finding.what;
        EXPECT_EQ(finding.remedy, "") << finding.name;
        EXPECT_FALSE(finding.why.empty()) << finding.name;
    }
}

TEST_F(ProductionFacts, NamesEachHoleOfTheProcessor) {
    put(std::string(kHoles) + "spec_rstack_overflow", "Vulnerable: Safe RET, no microcode");
    put(std::string(kHoles) + "mds", "Mitigation: Clear CPU buffers; SMT vulnerable");
    HostFinding found = find("cpu vulnerabilities");
    expect_bad("cpu vulnerabilities", "spec_rstack_overflow: Vulnerable", "microcode");
    EXPECT_NE(found.what.find("mds: "), std::string::npos) << found.what;
    EXPECT_EQ(found.what.find("meltdown"), std::string::npos) << found.what;
    stdfs::remove_all(tree.root + kHoles);
    expect_bad("cpu vulnerabilities", "does not tell", "kernel");
}

TEST_F(ProductionFacts, ThreadsOfACoreNeedCoreScheduling) {
    put("/sys/devices/system/cpu/smt/active", "1");
    expect_bad("smt", "no core scheduling", "smt/control");
    tree.core_scheduling = true;
    EXPECT_TRUE(find("smt").good);
}

TEST_F(ProductionFacts, SeesMergedPagesAndSwap) {
    put("/sys/kernel/mm/ksm/run", "1");
    expect_bad("ksm", "merges", "echo 2 > /sys/kernel/mm/ksm/run");
    put("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2");
    expect_bad("swap", "/dev/sda2", "swapoff -a");
}

TEST_F(ProductionFacts, SeesNestedPagesAndParametersOfKvm) {
    put("/sys/module/kvm_amd/parameters/npt", "0");
    expect_bad("nested pages", "off", "npt=1");
    put("/sys/module/kvm_amd/parameters/nested", "1");
    put("/sys/module/kvm/parameters/enable_vmware_backdoor", "Y");
    expect_bad("kvm parameters", "kvm_amd.nested is on", "options kvm_amd nested=0");
    expect_bad("kvm parameters", "enable_vmware_backdoor", "modprobe.d");
    stdfs::remove_all(tree.root + "/sys/module/kvm_amd");
    expect_bad("nested pages", "neither", "modprobe");
}

TEST_F(ProductionFacts, SaysWhichLimitsAreNotEnforced) {
    tree.missing_controllers = {"cpu", "memory"};
    expect_bad("quotas", "--cpu-max", "cgroup_no_v1=all");
    expect_bad("quotas", "a VMM's memory", "cgroup");
    EXPECT_EQ(find("quotas").what.find("threads"), std::string::npos);
    tree.missing_controllers = HostTree().missing_controllers;
    expect_bad("quotas", "threads", "cgroup");
}

TEST_F(ProductionFacts, SeesWhatIsTooLittle) {
    put("/proc/sys/kernel/pid_max", "4096");
    tree.open_files_max = 1024;
    expect_bad("limits", "kernel.pid_max is 4096", "sysctl -w kernel.pid_max");
    expect_bad("limits", "nofile is 1024", "ulimit -Hn");
    tree.locked_memory_max = 65536;
    EXPECT_EQ(find("limits").what.find("memlock"), std::string::npos) << "root lifts it";
    tree.is_root = false;
    expect_bad("limits", "memlock is 65536", "ulimit -l");
    stdfs::remove(tree.root + "/usr/sbin/nft");
    expect_bad("nftables", "no program nft", "apt-get install nftables");
}

TEST_F(ProductionFacts, TellsAKernelsAgeByEitherKindOfDate) {
    EXPECT_EQ(find("kernel age").what, "built 93 days ago");
    put("/proc/version", "Linux version 5.10 (x) #1 SMP Mon Sep 4 10:11:12 UTC 2023");
    expect_bad("kernel age", "built 485 days ago", "reboot");
    put("/proc/version", "Linux version 6.18.44 (builder) #1 SMP PREEMPT_DYNAMIC @0");
    expect_bad("kernel age", "does not say", "apt-get");
}

}  // namespace
}  // namespace spore
