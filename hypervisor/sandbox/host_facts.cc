#include "hypervisor/sandbox/host_facts.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "hypervisor/base/words.h"
#include "hypervisor/io/event_loop.h"
#include "hypervisor/jail/cgroup.h"
#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/jail/own_user.h"
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/kvm/ring0_probe.h"
#include "hypervisor/network/sandbox_network.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/production_facts.h"

namespace spore {

namespace {

HostFinding check_kernel() {
    utsname name = {};
    ::uname(&name);
    int major = 0, minor = 0;
    std::sscanf(name.release, "%d.%d", &major, &minor);
    bool good = major > 6 || (major == 6 && minor >= 1);
    return {"kernel", good, true, std::string("Linux ") + name.release,
            good ? "" : "Linux 6.1 or newer is needed"};
}

HostFinding check_ring() {
    auto loop = EventLoop::create();
    if (loop)
        return {"io_uring", true, true, "works, restricted to fixed files and our opcodes", ""};
    return {"io_uring", false, true, loop.error().message,
            "allow io_uring: sysctl kernel.io_uring_disabled=0, and no seccomp filter against it"};
}

HostFinding check_kvm() {
    auto kvm = Kvm::open();
    if (kvm)
        return {"kvm", true, true, "/dev/kvm has API version 12 and every capability needed", ""};
    std::string remedy;
    if (::access("/dev/kvm", F_OK) != 0)
        remedy = "load kvm_intel or kvm_amd; in a VM, switch nested virtualization on outside";
    else if (kvm.error().code == Code::permission_denied)
        remedy = "join the group kvm, or run as root";
    else
        remedy = "a newer kernel";
    return {"kvm", false, true, kvm.error().message, remedy};
}

HostFinding check_ring0(bool& runs_linux) {
    auto speed = measure_ring0();
    runs_linux = speed && speed->runs_linux;
    if (!speed)
        return {"guest kernels", false, true, "the probe guest failed: " + speed.error().message,
                "use the emulated host: tests/bed/run -- COMMAND"};
    char text[160];
    std::snprintf(text, sizeof(text), "%.1f ns an instruction in ring 0%s",
                  speed->ns_per_instruction,
                  runs_linux ? "" : ": kernel code is interpreted here, no Linux guest boots");
    return {"guest kernels", runs_linux, true, text,
            runs_linux ? "" : "use the emulated host: tests/bed/run -- COMMAND"};
}

HostFinding check_tun() {
    bool good = ::access("/dev/net/tun", R_OK | W_OK) == 0;
    return {"tun", good, false, good ? "/dev/net/tun can be opened" : "no way to /dev/net/tun",
            good ? "" : "modprobe tun, or run as root; --net socket= works without"};
}

// Where sandboxes' cgroups are made, and what limits can be set in them.
HostFinding check_cgroup() {
    HostFinding finding{"cgroup v2", false, false, {}, {}};
    auto place = find_cgroup_place();
    if (!place) {
        finding.what = place.error().message;
        if (!CgroupHost::from_environment().empty())
            finding.remedy = "let SPORE_CGROUP name a directory of the hierarchy, or unset it";
        else if (::geteuid() == 0)
            finding.remedy =
                "quotas need it: boot with systemd.unified_cgroup_hierarchy=1, or beside cgroup "
                "v1: mkdir /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified";
        else
            finding.remedy =
                "run spore in a delegated cgroup: systemd-run --user --scope -p "
                "Delegate=yes -- spore ...; or as root";
        return finding;
    }
    auto controllers = cgroup_controllers(*place);
    auto v1 = cgroup_v1_controllers(place->directory());
    auto missing = missing_quota_controllers(*place);
    finding.good = missing.empty();
    finding.what = "one for each sandbox in " + place->directory().string() +
                   "; controllers: " + (controllers.empty() ? "none" : joined(controllers)) +
                   (v1.empty() ? "" : "; in cgroup v1: " + joined(v1));
    if (!finding.good)
        finding.remedy = "quotas need " + joined(missing) +
                         " too: boot with cgroup_no_v1=all, and have the cgroups above hand them "
                         "on (cgroup.subtree_control)";
    return finding;
}

// Whether sandboxes can have networks here, and whether the rules that hold them are ours.
HostFinding check_networks() {
    HostFinding finding{"networks", false, false, {}, {}};
    if (auto possible = check_host_network(); !possible) {
        finding.what = possible.error().message;
        size_t command = finding.what.rfind(": ");
        finding.remedy = finding.what.substr(command + 2);
    } else if (auto rules = check_host_rules(); !rules) {
        finding.what = rules.error().message;
        finding.remedy =
            "the next sandbox with a network mends them; nft monitor tells who changes them";
    } else if (uint32_t nameserver = host_nameserver(); nameserver == 0) {
        finding.what = "no nameserver in /etc/resolv.conf that a sandbox could reach";
        finding.remedy = "name one with --dns";
    } else {
        finding.good = true;
        finding.what = (may_make_networks() ? std::string("nftables, forwarding")
                                            : "by passt, in namespaces of this user's, with "
                                              "nftables there: Spore has no right "
                                              "to make links on the host. Not enforced: " +
                                                  user_networks_lack()) +
                       std::string("; sandboxes ask ") + ipv4_text(nameserver);
    }
    return finding;
}

// Whether each sandbox's process can be a user of its own.
HostFinding check_users() {
    HostFinding finding{"users", false, false, {}, {}};
    finding.why = "what one VMM owns, or may signal, is no other's, should a guest get into it";
    auto range = user_range();
    if (::geteuid() != 0) {
        finding.what = "not root: all VMMs are this user's";
        finding.remedy = "run spore as root";
    } else if (!range) {
        finding.what = range.error().message;
        finding.remedy = "SPORE_UIDS=FIRST-LAST, a range of users that are nobody's";
    } else {
        finding.good = true;
        finding.what = "each VMM is one of " + std::to_string(range->first) + " to " +
                       std::to_string(range->last);
    }
    return finding;
}

}  // namespace

bool HostFacts::good() const {
    return std::ranges::all_of(findings,
                               [](const HostFinding& each) { return each.good || !each.needed; });
}

HostFacts examine_host() {
    HostFacts facts;
    facts.findings = {check_kernel(), check_ring(), check_kvm()};
    if (facts.findings.back().good)
        facts.findings.push_back(check_ring0(facts.runs_linux));
    facts.findings.push_back(check_tun());
    facts.findings.push_back(check_cgroup());
    facts.findings.push_back(check_networks());
    facts.findings.push_back(check_users());
    for (HostFinding& finding : examine_for_production(HostTree::here()))
        facts.findings.push_back(std::move(finding));
    return facts;
}

}  // namespace spore
