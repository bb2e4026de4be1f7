#include "agent/guest_system.h"

#include <fcntl.h>
#include <linux/random.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "agent/file.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

constexpr const char* kCgroup = kCommandCgroup;
constexpr const char* kBootId = "/proc/sys/kernel/random/boot_id";
constexpr const char* kHostname = "/etc/hostname";
constexpr const char* kHosts = "/etc/hosts";
constexpr const char* kMachineId = "/etc/machine-id";
constexpr int kFreezeMs = 5000;
constexpr uint64_t kNsPerSecond = 1'000'000'000;

constexpr std::string_view kOwnAddress = "127.0.1.1";

// hosts(5) without the line of this machine's name.
std::string hosts_without_own(std::string_view hosts) {
    std::string result;
    while (!hosts.empty()) {
        const size_t end = std::min(hosts.find('\n'), hosts.size());
        const std::string_view line = hosts.substr(0, end);
        hosts.remove_prefix(std::min(end + 1, hosts.size()));
        if (!line.starts_with(kOwnAddress))
            result.append(line).append("\n");
    }
    if (result.empty())
        result = "127.0.0.1\tlocalhost\n::1\tlocalhost\n";
    return result;
}

// A random UUID (RFC 9562 §5.4) as the kernel writes it.
Result<std::string> random_uuid() {
    std::array<uint8_t, 16> bytes;
    if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
        return fail_errno("getrandom");
    bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0f) | 0x40);
    bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3f) | 0x80);
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (size_t i = 0; i < bytes.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text += '-';
        text += kDigits[bytes[i] >> 4];
        text += kDigits[bytes[i] & 0xf];
    }
    return text;
}

}  // namespace

Status GuestSystem::open() {
    if (::mkdir(kOwnFiles, 0755) != 0 && errno != EEXIST)
        return fail_errno(std::string("mkdir ") + kOwnFiles);
    if (::mkdir(kCgroup, 0755) != 0 && errno != EEXIST)
        return fail_errno(std::string("mkdir ") + kCgroup);
    cgroup_ = UniqueFd(::open(kCgroup, O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!cgroup_)
        return fail_errno(std::string("open ") + kCgroup);
    // Turned on later it would hold a clone's identity up for some RCU grace periods. A kernel that
    // cannot is told to who wants a limit.
    (void)count_memory();
    // All commands together weigh as much as one thread of the kernel's: those that carry the
    // agent's connections (vsock has no thread of its own to put first) would have a two-hundredth
    // of the processor beside two hundred commands, and nobody would hear of the agent for minutes.
    // A kernel that cannot has them as equals.
    (void)write_setting(kCgroupControllers, "+cpu");
    return reserve_processes();
}

// Commands may not have all the processes that there can be: what is not a command finds room. A
// command's start then fails with EAGAIN, which is told as what it is.
Status GuestSystem::reserve_processes() {
    constexpr long kReserved = 64;
    TRY(write_setting(kCgroupControllers, "+pids"));
    const auto number = [](const char* path) {
        return std::strtol(read_file(path).value_or(std::string()).c_str(), nullptr, 10);
    };
    const long most =
        std::min(number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max"));
    if (most <= 2 * kReserved)
        return fail(Code::host_unsupported, "processes: this guest can have " +
                                                std::to_string(most) + ", too few to reserve some");
    processes_most_ = static_cast<uint32_t>(most - kReserved);
    return limit_commands({});
}

UniqueFd GuestSystem::kernel_log() const {
    UniqueFd log(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (log && ::lseek(log.get(), 0, SEEK_END) < 0)
        return {};
    return log;
}

Status GuestSystem::add_entropy(std::span<const std::byte> entropy) {
    // random(4): the count of bits, the count of bytes, and the bytes.
    struct {
        int bits;
        int bytes;
        std::array<std::byte, limits::kEntropyBytesMax> data;
    } pool = {};
    if (entropy.size() > pool.data.size())
        return fail(Code::invalid_argument, "entropy: too long");
    pool.bits = static_cast<int>(entropy.size() * 8);
    pool.bytes = static_cast<int>(entropy.size());
    std::memcpy(pool.data.data(), entropy.data(), entropy.size());
    if (!random_)
        random_ = UniqueFd(::open("/dev/random", O_WRONLY | O_CLOEXEC));
    if (!random_)
        return fail_errno("open /dev/random");
    const bool added = ::ioctl(random_.get(), RNDADDENTROPY, &pool) == 0;
    const int error = errno;
    ::explicit_bzero(&pool, sizeof(pool));
    if (!added)
        return fail_errno("RNDADDENTROPY", error);
    // The pool has them; this makes the generator of every CPU draw from it before its next number.
    if (::ioctl(random_.get(), RNDRESEEDCRNG) != 0)
        return fail_errno("RNDRESEEDCRNG");
    return {};
}

Status GuestSystem::step_clock(uint64_t wall_clock_ns) {
    const timespec now = {.tv_sec = static_cast<time_t>(wall_clock_ns / kNsPerSecond),
                          .tv_nsec = static_cast<long>(wall_clock_ns % kNsPerSecond)};
    if (::clock_settime(CLOCK_REALTIME, &now) != 0)
        return fail_errno("clock_settime to " + std::to_string(wall_clock_ns) + " ns");
    return {};
}

Status GuestSystem::set_hostname(const std::string& hostname) {
    if (::sethostname(hostname.data(), hostname.size()) != 0)
        return fail_errno("sethostname '" + hostname + "'");
    return write_hostname_files(hostname);
}

Status GuestSystem::write_hostname_files(const std::string& hostname) {
    TRY(overwrite_file(kHostname, hostname + "\n"));
    // As it was when the machine was sealed; nobody has written to it since.
    std::string hosts = hosts_ ? *std::exchange(hosts_, {})
                               : hosts_without_own(read_file(kHosts).value_or(std::string()));
    hosts.append(kOwnAddress).append("\t").append(hostname).append("\n");
    return overwrite_file(kHosts, hosts);
}

Status GuestSystem::set_machine_id(const std::string& machine_id) {
    return overwrite_file(kMachineId, machine_id + "\n");
}

// Every file is there, its page cached and its block allocated, and no shorter than it will be: so
// a clone's disk is not waited for.
Status GuestSystem::shed_identity() {
    std::string hosts = hosts_without_own(read_file(kHosts).value_or(std::string()));
    TRY(overwrite_file(kHosts, hosts));
    hosts_ = std::move(hosts);
    TRY(overwrite_file(kHostname, "\n"));
    TRY(overwrite_file(kMachineId, std::string(32, '0') + "\n"));
    TRY(renew_boot_id());
    random_ = UniqueFd(::open("/dev/random", O_WRONLY | O_CLOEXEC));
    if (!random_)
        return fail_errno("open /dev/random");
    return {};
}

std::string GuestSystem::boot_id() {
    auto id = read_file(kBootId);
    if (!id)
        return "unknown";
    while (id->ends_with('\n'))
        id->pop_back();
    return *id;
}

// The kernel's own is part of the snapshot and cannot be set; a file over it can.
Status GuestSystem::renew_boot_id() {
    const std::string content = TRY(random_uuid()) + "\n";
    if (boot_id_) {  // the same file, as long as it was
        if (::pwrite(boot_id_.get(), content.data(), content.size(), 0) !=
            static_cast<ssize_t>(content.size()))
            return fail_errno("write the boot ID");
        return {};
    }
    const std::string path = std::string(kOwnFiles) + "/boot_id";
    TRY(replace_file(path, content));
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file)
        return fail_errno("open " + path);
    if (::mount(path.c_str(), kBootId, nullptr, MS_BIND, nullptr) != 0) {
        const Status failed = fail_errno(std::string("bind over ") + kBootId);
        ::unlink(path.c_str());
        return failed;
    }
    boot_id_ = std::move(file);
    return {};
}

Status GuestSystem::freeze_commands() {
    if (!cgroup_)
        return fail(Code::host_unsupported, "snapshot: this guest's kernel has no cgroup2");
    const std::string events = std::string(kCgroup) + "/cgroup.events";
    // Nobody but this process, which is busy here, adds one: where there is none, none will run.
    if (TRY(read_file(events)).find("populated 0") != std::string::npos)
        return {};
    frozen_ = true;
    TRY(write_setting(std::string(kCgroup) + "/cgroup.freeze", "1"));
    UniqueFd watched(::open(events.c_str(), O_RDONLY | O_CLOEXEC));
    if (!watched)
        return fail_errno("open " + events);
    while (true) {
        char text[256] = {};
        if (::pread(watched.get(), text, sizeof(text) - 1, 0) < 0)
            return fail_errno("read " + events);
        if (std::strstr(text, "frozen 1") != nullptr)
            return {};
        // kernfs tells of a change by POLLPRI.
        pollfd change = {watched.get(), POLLPRI, 0};
        const int ready = ::poll(&change, 1, kFreezeMs);
        if (ready == 0)
            return fail(Code::timeout, "snapshot: a command cannot be frozen");
        if (ready < 0 && errno != EINTR)
            return fail_errno("poll " + events);
    }
}

Status GuestSystem::thaw_commands() {
    if (!frozen_)
        return {};
    TRY(write_setting(std::string(kCgroup) + "/cgroup.freeze", "0"));
    frozen_ = false;
    return {};
}

Status GuestSystem::sync_disks() {
    ::sync();
    return {};
}

Status GuestSystem::grow_root(uint64_t wanted_bytes) {
    struct stat root = {};
    struct statfs about = {};
    UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || ::fstat(directory.get(), &root) != 0 ||
        ::fstatfs(directory.get(), &about) != 0)
        return fail_errno("root file system");
    constexpr auto kExt4Magic = 0xEF53;
    if (about.f_type != kExt4Magic)
        return fail(Code::host_unsupported, "root file system: only ext4 can grow");
    const std::string size_file = "/sys/dev/block/" + std::to_string(major(root.st_dev)) + ":" +
                                  std::to_string(minor(root.st_dev)) + "/size";
    constexpr uint64_t kSectorBytes = 512;  // whatever the disk's own are
    const uint64_t disk_bytes =
        std::strtoull(TRY(read_file(size_file)).c_str(), nullptr, 10) * kSectorBytes;
    if (disk_bytes < wanted_bytes)
        return fail(Code::unavailable, "root file system: its disk has " +
                                           std::to_string(disk_bytes) + " bytes, not yet " +
                                           std::to_string(wanted_bytes));
    uint64_t blocks = disk_bytes / static_cast<uint64_t>(about.f_bsize);
    // Not in the kernel's installed headers: EXT4_IOC_RESIZE_FS of fs/ext4/ext4.h, as resize2fs.
    constexpr unsigned long kResize = _IOW('f', 16, uint64_t);
    if (::ioctl(directory.get(), kResize, &blocks) != 0)
        return fail_errno("grow the root file system to " + std::to_string(disk_bytes) + " bytes");
    return {};
}

}  // namespace spore
