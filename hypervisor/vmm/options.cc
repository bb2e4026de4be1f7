#include "hypervisor/vmm/options.h"

#include <getopt.h>

#include <algorithm>
#include <charconv>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/parse_size.h"

namespace spore {

namespace {

enum Option : int {
    kKernel = 256,
    kInitrd,
    kCommandLine,
    kMemory,
    kCpus,
    kCpuTemplate,
    kDisk,
    kNet,
    kVsock,
    kVsockCid,
    kRestore,
    kSealed,
    kControl,
    kSerial,
    kLogLevel,
    kReadyFd,
    kPaused,
    kStageTimes,
    kCpuChecked,
    kZygoteFd,
    kRecordWorkingSet,
    kJail,
    kCgroup,
    kIoMax,
    kNetMax,
    kHelp,
};

constexpr option kOptions[] = {
    {"kernel", required_argument, nullptr, kKernel},
    {"initrd", required_argument, nullptr, kInitrd},
    {"cmdline", required_argument, nullptr, kCommandLine},
    {"memory", required_argument, nullptr, kMemory},
    {"cpus", required_argument, nullptr, kCpus},
    {"cpu-template", required_argument, nullptr, kCpuTemplate},
    {"disk", required_argument, nullptr, kDisk},
    {"net", required_argument, nullptr, kNet},
    {"vsock", required_argument, nullptr, kVsock},
    {"vsock-cid", required_argument, nullptr, kVsockCid},
    {"restore", required_argument, nullptr, kRestore},
    {"sealed", no_argument, nullptr, kSealed},
    {"control", required_argument, nullptr, kControl},
    {"serial", required_argument, nullptr, kSerial},
    {"log-level", required_argument, nullptr, kLogLevel},
    {"ready-fd", required_argument, nullptr, kReadyFd},
    {"paused", no_argument, nullptr, kPaused},
    {"stage-times", no_argument, nullptr, kStageTimes},
    {"cpu-checked", no_argument, nullptr, kCpuChecked},
    {"zygote-fd", required_argument, nullptr, kZygoteFd},
    {"record-working-set", required_argument, nullptr, kRecordWorkingSet},
    {"jail", no_argument, nullptr, kJail},
    {"cgroup", required_argument, nullptr, kCgroup},
    {"io-max", required_argument, nullptr, kIoMax},
    {"net-max", required_argument, nullptr, kNetMax},
    {"help", no_argument, nullptr, kHelp},
    {nullptr, 0, nullptr, 0},
};

// What spdlog knows; any other word it would take for off.
constexpr std::string_view kLogLevels[] = {"trace", "debug",    "info", "warn",
                                           "error", "critical", "off"};

Result<uint32_t> parse_number(std::string_view option, std::string_view text, uint32_t least,
                              uint32_t most) {
    uint32_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < least || number > most)
        return fail(Code::invalid_argument,
                    std::string(option) + " '" + std::string(text) + "': must be a number from " +
                        std::to_string(least) + " to " + std::to_string(most));
    return number;
}

Status apply(VmmOptions& options, int option, std::string_view value) {
    MachineConfig& machine = options.machine;
    switch (option) {
        case kKernel:
            machine.kernel = value;
            break;
        case kInitrd:
            machine.initrd = value;
            break;
        case kCommandLine:
            machine.command_line = value;
            break;
        case kMemory:
            machine.memory_bytes = TRY(parse_size("memory", value));
            break;
        case kCpus:
            machine.cpus = TRY(parse_number("cpus", value, 1, limits::kVcpusMax));
            break;
        case kCpuTemplate:
            machine.cpu_template = value;
            break;
        case kDisk:
            machine.disks.push_back(TRY(parse_disk(value)));
            break;
        case kNet:
            machine.networks.push_back(TRY(parse_network(value)));
            break;
        case kVsock:
            machine.vsock_path = value;
            break;
        case kVsockCid:
            machine.vsock_cid = TRY(parse_number("vsock-cid", value, 3, 0xfffffffe));
            break;
        case kRestore:
            options.restore_directory = value;
            break;
        case kSealed:
            options.sealed = true;
            break;
        case kControl:
            options.control_path = value;
            break;
        case kSerial:
            if (value != "stdio" && value != "none" && !value.starts_with("file:"))
                return fail(Code::invalid_argument, "serial '" + std::string(value) +
                                                        "': must be stdio, none or file:PATH");
            options.serial = value;
            break;
        case kLogLevel:
            if (std::ranges::find(kLogLevels, value) == std::end(kLogLevels))
                return fail(Code::invalid_argument,
                            "log-level '" + std::string(value) +
                                "': must be trace, debug, info, warn, error, critical or off");
            options.log_level = value;
            break;
        case kReadyFd:
            options.ready_fd = static_cast<int>(TRY(parse_number("ready-fd", value, 0, 65535)));
            break;
        case kPaused:
            options.start_paused = true;
            break;
        case kStageTimes:
            options.stage_times = true;
            break;
        case kCpuChecked:
            options.cpu_checked = true;
            break;
        case kZygoteFd:
            options.zygote_fd = static_cast<int>(TRY(parse_number("zygote-fd", value, 0, 65535)));
            break;
        case kRecordWorkingSet:
            options.working_set_path = value;
            break;
        case kJail:
            options.jail = true;
            break;
        case kCgroup:
            options.cgroup = value;
            break;
        case kIoMax:
            machine.disk_rate = TRY(parse_rate_limits("io-max", value, "ops"));
            break;
        case kNetMax:
            machine.network_rate = TRY(parse_rate_limits("net-max", value, "packets"));
            break;
        case kHelp:
            options.help = true;
            break;
        default:
            return fail(Code::invalid_argument, "unknown option");
    }
    return {};
}

}  // namespace

Result<VmmOptions> parse_vmm_options(int argc, char** argv) {
    VmmOptions options;
    opterr = 0;
    optind = 1;
    for (;;) {
        int current = optind;
        int option = ::getopt_long(argc, argv, ":", kOptions, nullptr);
        if (option == -1)
            break;
        if (option == '?' || option == ':')
            return fail(Code::invalid_argument,
                        std::string("option '") + argv[current] +
                            (option == ':' ? "': needs a value" : "': is not known; see --help"));
        TRY(apply(options, option, optarg == nullptr ? "" : optarg));
    }
    if (optind < argc)
        return fail(Code::invalid_argument,
                    std::string("argument '") + argv[optind] + "': is not an option; see --help");
    if (options.help)
        return options;
    if (options.restore_directory.empty() && options.machine.kernel.empty())
        return fail(Code::invalid_argument, "kernel: --kernel FILE or --restore DIR is needed");
    if (options.sealed && options.restore_directory.empty())
        return fail(Code::invalid_argument, "sealed: --restore DIR is needed");
    if (options.jail && options.restore_directory.empty())
        return fail(
            Code::invalid_argument,
            "jail: --restore DIR is needed: only what goes on from a snapshot can be jailed");
    if (!options.working_set_path.empty() &&
        (options.restore_directory.empty() || options.zygote_fd >= 0))
        return fail(Code::invalid_argument,
                    "record-working-set: --restore DIR is needed, and no zygote");
    if (options.jail && options.serial == "stdio" && options.zygote_fd < 0)
        return fail(Code::invalid_argument, "jail: --serial must be none or file:PATH");
    TRY(validate(options.machine));
    return options;
}

std::string_view vmm_help() {
    return R"(Boots one VM, or goes on from a snapshot, in the foreground.

  --kernel FILE       ELF vmlinux (with a PVH entry) or bzImage
  --initrd FILE       initial RAM file system
  --cmdline TEXT      kernel command line
  --memory SIZE       guest memory, 32M or more (256M)
  --cpus N            virtual CPUs, 1 to 16 (1)
  --cpu-template T    CPU features offered: host, or baseline for any x86-64-v2 machine (host)
  --disk F[,ro]       a raw file or block device; several may be given, in order vda, vdb, ...
  --disk F,layer=B[:MAP][,layer=...][,size=N]
                      copy-on-write: F takes the writes, the layers below it stay as they are
  --net tap=NAME[,mac=M] | socket=PATH[,mac=M]
                      a network card on a tap (tap-fd=N: attached to descriptor N already), or on
                      a Unix stream socket (passt)
  --io-max BYTES[,ops=N][,burst=BYTES][,ops-burst=N]
                      what each disk may do in a second, and at once after a pause
  --net-max BYTES[,packets=N][,burst=BYTES][,packets-burst=N]
                      the same of each network card, in each direction
  --vsock PATH        vsock: host programs connect to PATH and write "CONNECT <port>"; the guest's
                      connections to port P of the host go to PATH_P
  --restore DIR       go on from the snapshot in DIR; disks get fresh copy-on-write tops
  --cpu-checked       with --restore: this host's KVM has run the snapshot before; do not ask
                      it again whether it can
  --sealed            with --restore: DIR's large files must be what its seal.spore says
  --jail              with --restore: namespaces, an empty root, a list of system calls for each
                      thread; every file must be named here; whoever starts it removes what it makes
  --cgroup PATH|WHY   with --jail: the cgroup that this process was started in, which its status
                      then tells if it is true, or why there is none
  --serial stdio|none|file:PATH
                      where the serial console goes (stdio; Ctrl-] ends the VM at a terminal)
  --control PATH      a control socket (schema/control.fbs)
)";
}

}  // namespace spore
