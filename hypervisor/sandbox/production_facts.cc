#include "hypervisor/sandbox/production_facts.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "hypervisor/base/limits.h"
#include "hypervisor/jail/cgroup.h"

namespace spore {

namespace stdfs = std::filesystem;

namespace {

constexpr uint64_t kSecondsOfADay = 86'400;
// Fixes of a year are many that are public.
constexpr uint64_t kKernelDaysMax = 365;
constexpr uint64_t kPidsWanted = 32'768;
// Of as many sandboxes as a host of some size has; a user's usual 8 MiB hold hundreds of rings.
constexpr uint64_t kLockedBytesWanted = 8 * limits::kMiB;
constexpr uint64_t kOpenFilesWanted = limits::kRingFiles + 256;

std::optional<std::string> line_of(const HostTree& tree, const std::string& path) {
    std::ifstream file(tree.root + path);
    std::string line;
    if (!file || !std::getline(file, line))
        return std::nullopt;
    return line;
}

std::optional<uint64_t> number_of(const HostTree& tree, const std::string& path) {
    auto line = line_of(tree, path);
    uint64_t number = 0;
    if (!line ||
        std::from_chars(line->data(), line->data() + line->size(), number).ec != std::errc())
        return std::nullopt;
    return number;
}

bool is_on(const std::optional<std::string>& parameter) {
    return parameter && (*parameter == "Y" || *parameter == "1");
}

HostFinding finding(const char* name, bool good, std::string what, const char* why,
                    std::string remedy) {
    return {name, good, false, std::move(what), good ? "" : std::move(remedy), why};
}

// "Mitigation: ...; SMT vulnerable" is a hole too: that of a sibling thread.
bool is_hole(std::string text) {
    std::ranges::transform(text, text.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return text.find("vulnerable") != std::string::npos;
}

HostFinding check_vulnerabilities(const HostTree& tree) {
    constexpr const char* kWhy =
        "a guest reads memory of the host and of other guests through a processor's speculation";
    const std::string directory = "/sys/devices/system/cpu/vulnerabilities";
    std::map<std::string, std::string> holes;
    size_t count = 0;
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(tree.root + directory, error)) {
        auto text = line_of(tree, directory + "/" + entry.path().filename().string());
        if (!text)
            continue;
        count++;
        if (is_hole(*text))
            holes[entry.path().filename()] = *text;
    }
    if (count == 0)
        return finding("cpu vulnerabilities", false, "this kernel does not tell of them", kWhy,
                       "run a kernel with " + directory);
    std::string what = std::to_string(count) + " known, all mitigated or not there";
    if (!holes.empty()) {
        what.clear();
        for (const auto& [name, text] : holes)
            what += (what.empty() ? "" : "; ") + name + ": " + text;
    }
    return finding("cpu vulnerabilities", holes.empty(), what, kWhy,
                   "apt-get install intel-microcode amd64-microcode, boot without mitigations=off "
                   "and with mitigations=auto,nosmt, and update the kernel");
}

HostFinding check_smt(const HostTree& tree) {
    constexpr const char* kWhy =
        "two threads of a core share its caches and buffers: a sandbox could watch its neighbour";
    if (!is_on(line_of(tree, "/sys/devices/system/cpu/smt/active")))
        return finding("smt", true, "off, or not there", kWhy, "");
    if (tree.core_scheduling)
        return finding("smt", true, "on; core scheduling keeps sandboxes on cores of their own",
                       kWhy, "");
    return finding("smt", false, "on, and this kernel has no core scheduling", kWhy,
                   "echo off > /sys/devices/system/cpu/smt/control, or boot with nosmt");
}

HostFinding check_ksm(const HostTree& tree) {
    auto run = number_of(tree, "/sys/kernel/mm/ksm/run");
    bool on = run == 1;
    return finding("ksm", !on,
                   !run ? "not in this kernel"
                   : on ? "merges pages"
                        : "off",
                   "merged pages tell, by the time that a write takes, what another has in memory; "
                   "Spore asks for none to be merged, other programs may",
                   "echo 2 > /sys/kernel/mm/ksm/run; systemctl disable --now ksmtuned");
}

HostFinding check_swap(const HostTree& tree) {
    std::ifstream file(tree.root + "/proc/swaps");
    std::string line, first;
    size_t areas = 0;
    while (std::getline(file, line)) {
        if (line.starts_with("Filename"))
            continue;
        if (areas++ == 0)
            first = line.substr(0, line.find_first_of(" \t"));
    }
    return finding("swap", areas == 0,
                   areas == 0 ? "none" : first + (areas > 1 ? " and more" : "") + " is in use",
                   "memory of guests, secrets too, comes to lie on a disk and stays there",
                   "swapoff -a, and take it out of /etc/fstab; or encrypt it");
}

HostFinding check_nested_pages(const HostTree& tree) {
    constexpr const char* kWhy =
        "without them each change of a guest's page tables costs an exit, and KVM's shadow paging "
        "is the larger target";
    auto ept = line_of(tree, "/sys/module/kvm_intel/parameters/ept");
    auto npt = line_of(tree, "/sys/module/kvm_amd/parameters/npt");
    if (!ept && !npt)
        return finding("nested pages", false, "neither kvm_intel nor kvm_amd is loaded", kWhy,
                       "modprobe kvm_intel or kvm_amd");
    bool on = is_on(ept) || is_on(npt);
    return finding("nested pages", on, on ? (ept ? "EPT" : "NPT") : "off", kWhy,
                   ept ? "modprobe -r kvm_intel; modprobe kvm_intel ept=1"
                       : "modprobe -r kvm_amd; modprobe kvm_amd npt=1");
}

HostFinding check_kvm_parameters(const HostTree& tree) {
    struct Unwanted {
        const char* module;
        const char* parameter;
        const char* wanted;
    };
    // Each widens what a guest can reach in the host's kernel, and none is of use to one of ours.
    constexpr Unwanted kUnwanted[] = {{"kvm", "enable_vmware_backdoor", "0"},
                                      {"kvm", "ignore_msrs", "0"},
                                      {"kvm_intel", "nested", "0"},
                                      {"kvm_amd", "nested", "0"}};
    std::string what, remedy;
    for (const Unwanted& each : kUnwanted) {
        std::string module = each.module, parameter = each.parameter;
        if (!is_on(line_of(tree, "/sys/module/" + module + "/parameters/" + parameter)))
            continue;
        what += (what.empty() ? "" : ", ") + module + "." + parameter + " is on";
        remedy += (remedy.empty() ? "" : "; ") + std::string("echo options ") + module + " " +
                  parameter + "=" + each.wanted + " >> /etc/modprobe.d/spore.conf";
    }
    return finding("kvm parameters", what.empty(), what.empty() ? "none that should not be" : what,
                   "what no guest here needs is only there to be attacked",
                   remedy + "; then load the module again");
}

// Which of create's limits need which controller.
HostFinding check_quotas_here(const HostTree& tree) {
    constexpr std::pair<const char*, const char*> kNeeds[] = {
        {"cpu", "--cpu-max, --cpu-weight"},
        {"memory", "the bound of a VMM's memory"},
        {"pids", "a second bound of a VMM's threads beside RLIMIT_NPROC"}};
    std::string what;
    for (const auto& [controller, limits] : kNeeds) {
        if (std::ranges::find(tree.missing_controllers, controller) !=
            tree.missing_controllers.end())
            what += (what.empty() ? "" : "; ") + std::string(limits) + " (" + controller + ")";
    }
    return finding("quotas", what.empty(),
                   what.empty() ? "every limit is enforced" : "not enforced: " + what,
                   "what a hostile guest's kernel uses only the host's kernel can bound; disk, "
                   "network and processes in the guest are bounded anyway",
                   "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all");
}

HostFinding check_nftables(const HostTree& tree) {
    bool found = false;
    for (const char* place : {"/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"})
        found |= ::access((tree.root + place).c_str(), X_OK) == 0;
    return finding("nftables", found, found ? "nft is there" : "there is no program nft",
                   "a sandbox's network is closed by rules of it; without, --network egress and "
                   "open are refused",
                   "apt-get install nftables; modprobe nf_tables");
}

HostFinding check_limits(const HostTree& tree) {
    std::string what, remedy;
    auto need = [&](const std::string& name, uint64_t has, uint64_t wanted,
                    const std::string& command) {
        if (has >= wanted)
            return;
        what += (what.empty() ? "" : ", ") + name + " is " + std::to_string(has) + ", should be " +
                std::to_string(wanted) + " or more";
        remedy += (remedy.empty() ? "" : "; ") + command;
    };
    if (!tree.is_root)  // root lifts it for what it starts
        need("memlock", tree.locked_memory_max, kLockedBytesWanted, "ulimit -l unlimited");
    need("nofile", tree.open_files_max, kOpenFilesWanted,
         "ulimit -Hn " + std::to_string(kOpenFilesWanted));
    need("kernel.pid_max", number_of(tree, "/proc/sys/kernel/pid_max").value_or(0), kPidsWanted,
         "sysctl -w kernel.pid_max=4194304");
    need("kernel.threads-max", number_of(tree, "/proc/sys/kernel/threads-max").value_or(0),
         kPidsWanted, "sysctl -w kernel.threads-max=" + std::to_string(kPidsWanted));
    need("user.max_user_namespaces",
         number_of(tree, "/proc/sys/user/max_user_namespaces").value_or(0), 1000,
         "sysctl -w user.max_user_namespaces=100000");
    return finding("limits", what.empty(),
                   what.empty() ? "memlock, nofile, pids and user namespaces are enough" : what,
                   "each sandbox is some threads, a ring, some hundred descriptors and a namespace "
                   "of each kind",
                   remedy);
}

// The day that a kernel was built: "(2024-09-30)" in Debian's /proc/version, or its end's "Mon Sep
// 30 10:11:12 UTC 2024".
std::optional<uint64_t> built_unix_s(const std::string& version) {
    std::tm day = {};
    for (size_t open = version.find('('); open != std::string::npos;
         open = version.find('(', open + 1)) {
        if (const char* end = ::strptime(version.c_str() + open + 1, "%Y-%m-%d", &day);
            end != nullptr && *end == ')')
            return static_cast<uint64_t>(::timegm(&day));
    }
    constexpr const char* kDays[] = {"Mon ", "Tue ", "Wed ", "Thu ", "Fri ", "Sat ", "Sun "};
    for (const char* name : kDays) {
        size_t found = version.rfind(name);
        if (found == std::string::npos)
            continue;
        std::string text = version.substr(found);
        char month[4] = {};
        int date = 0, year = 0;
        if (std::sscanf(text.c_str(), "%*3s %3s %d %*s %*s %d", month, &date, &year) == 3) {
            std::string whole = std::to_string(year) + " " + month + " " + std::to_string(date);
            day = {};
            if (::strptime(whole.c_str(), "%Y %b %d", &day) != nullptr)
                return static_cast<uint64_t>(::timegm(&day));
        }
    }
    return std::nullopt;
}

HostFinding check_kernel_age(const HostTree& tree) {
    constexpr const char* kWhy =
        "a guest that breaks out of KVM does so by a hole that was closed "
        "in some later kernel";
    auto version = line_of(tree, "/proc/version");
    auto built = version ? built_unix_s(*version) : std::nullopt;
    if (!built)
        return finding("kernel age", false, "/proc/version does not say when it was built", kWhy,
                       "see that it gets updates: apt-get update && apt-get dist-upgrade");
    uint64_t now =
        tree.now_unix_s != 0 ? tree.now_unix_s : static_cast<uint64_t>(std::time(nullptr));
    uint64_t days = now > *built ? (now - *built) / kSecondsOfADay : 0;
    return finding("kernel age", days <= kKernelDaysMax,
                   "built " + std::to_string(days) + " days ago", kWhy,
                   "apt-get update && apt-get dist-upgrade, then reboot");
}

}  // namespace

HostTree HostTree::here() {
    HostTree tree;
    if (auto place = find_cgroup_place())
        tree.missing_controllers = missing_quota_controllers(*place);
    unsigned long cookie = 0;
    tree.core_scheduling =
        ::prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, PR_SCHED_CORE_SCOPE_THREAD, &cookie) == 0;
    rlimit limit = {};
    if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0)
        tree.locked_memory_max = limit.rlim_max;
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0)
        tree.open_files_max = limit.rlim_max;
    tree.is_root = ::geteuid() == 0;
    return tree;
}

std::vector<HostFinding> examine_for_production(const HostTree& tree) {
    return {check_vulnerabilities(tree),
            check_smt(tree),
            check_ksm(tree),
            check_swap(tree),
            check_nested_pages(tree),
            check_kvm_parameters(tree),
            check_quotas_here(tree),
            check_nftables(tree),
            check_limits(tree),
            check_kernel_age(tree)};
}

}  // namespace spore
