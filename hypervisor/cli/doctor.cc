// spore doctor: what this host can do, why, and what to do about it.

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "hypervisor/cli/commands.h"
#include "hypervisor/io/event_loop.h"
#include "hypervisor/jail/cgroup.h"
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/kvm/ring0_probe.h"

namespace spore::cli {

namespace {

struct Finding {
    std::string name;
    bool good = false;
    bool needed = true;
    std::string what;    // what was found
    std::string remedy;  // what to do; empty if all is well
};

Finding check_kernel() {
    utsname name = {};
    ::uname(&name);
    int major = 0, minor = 0;
    std::sscanf(name.release, "%d.%d", &major, &minor);
    bool good = major > 6 || (major == 6 && minor >= 1);
    return {"kernel", good, true, std::string("Linux ") + name.release,
            good ? "" : "Linux 6.1 or newer is needed"};
}

Finding check_ring() {
    auto loop = EventLoop::create();
    if (loop)
        return {"io_uring", true, true, "works, restricted to fixed files and our opcodes", ""};
    return {"io_uring", false, true, loop.error().message,
            "allow io_uring: sysctl kernel.io_uring_disabled=0, and no seccomp filter against it"};
}

Finding check_kvm() {
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

Finding check_ring0(bool& runs_linux) {
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

Finding check_tun() {
    bool good = ::access("/dev/net/tun", R_OK | W_OK) == 0;
    return {"tun", good, false, good ? "/dev/net/tun can be opened" : "no way to /dev/net/tun",
            good ? "" : "modprobe tun, or run as root; --net socket= works without"};
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words)
        text += (text.empty() ? "" : ", ") + word;
    return text;
}

// Where sandboxes' cgroups are made, and what limits can be set in them.
Finding check_cgroup() {
    Finding finding{"cgroup v2", false, false, {}, {}};
    auto place = find_cgroup_place();
    if (!place) {
        finding.what = place.error().message;
        if (!CgroupHost::from_environment().empty())
            finding.remedy = "let SPORE_CGROUP name a directory of the hierarchy, or unset it";
        else if (::geteuid() == 0)
            finding.remedy = "boot with systemd.unified_cgroup_hierarchy=1; quotas need it";
        else
            finding.remedy =
                "run spore in a delegated cgroup: systemd-run --user --scope -p "
                "Delegate=yes -- spore ...; or as root";
        return finding;
    }
    auto controllers = cgroup_controllers(*place);
    std::vector<std::string> missing;
    for (const char* controller : kCgroupControllers) {
        if (std::ranges::find(controllers, controller) == controllers.end())
            missing.emplace_back(controller);
    }
    finding.good = missing.empty();
    finding.what = "one for each sandbox in " + place->directory().string() +
                   "; controllers: " + (controllers.empty() ? "none" : joined(controllers));
    if (!finding.good)
        finding.remedy = "quotas need " + joined(missing) +
                         " too: boot with cgroup_no_v1=all, and have the cgroups above hand them "
                         "on (cgroup.subtree_control)";
    return finding;
}

}  // namespace

void add_doctor(CLI::App& app, Context& context) {
    CLI::App* command = app.add_subcommand("doctor", "what this host can do, and what to fix");
    on_chosen(command, context, [&context]() -> Status {
        bool runs_linux = false;
        std::vector<Finding> findings = {check_kernel(), check_ring(), check_kvm()};
        if (findings.back().good)
            findings.push_back(check_ring0(runs_linux));
        findings.push_back(check_tun());
        findings.push_back(check_cgroup());
        bool good = true;
        for (const Finding& finding : findings)
            good = good && (finding.good || !finding.needed);
        const char* host = runs_linux ? "kvm" : "emulated";
        if (context.globals.json) {
            nlohmann::json checks = nlohmann::json::array();
            for (const Finding& finding : findings)
                checks.push_back({{"name", finding.name},
                                  {"good", finding.good},
                                  {"needed", finding.needed},
                                  {"found", finding.what},
                                  {"remedy", finding.remedy}});
            print_json({{"good", good}, {"host", host}, {"checks", checks}});
        } else {
            Table table({"", "CHECK", "FOUND"});
            for (const Finding& finding : findings) {
                table.add({finding.good     ? "ok"
                           : finding.needed ? "NO"
                                            : "--",
                           finding.name, finding.what});
                if (!finding.remedy.empty())
                    table.add({"", "", "→ " + finding.remedy});
            }
            table.print();
            std::printf("\n%s\n", good ? "This host runs Linux guests."
                                       : "This host does not run Linux guests; the emulated host "
                                         "(tests/bed) does.");
        }
        if (!good)
            context.exit_status = exit_status(Code::host_unsupported);
        return {};
    });
}

}  // namespace spore::cli
