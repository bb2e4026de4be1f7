#include "agent/init.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>

#include "agent/file.h"
#include "agent/guest_system.h"
#include "agent/log.h"
#include "agent/spawn.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

struct Mount {
    const char* type;
    const char* target;
    unsigned long flags;
    const char* options;
    mode_t mode;
};

// Before the root file system is found, on the initramfs; moved over to it.
constexpr Mount kEarlyMounts[] = {
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "", 0555},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, "", 0555},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=755", 0755},
};
constexpr Mount kLateMounts[] = {
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666", 0755},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", 01777},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755", 0755},
    {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "", 0755},
};

Status mount_one(const Mount& mount) {
    ::mkdir(mount.target, mount.mode);  // it is there, or mount(2) says that it is not
    if (::mount(mount.type, mount.target, mount.type, mount.flags, mount.options) != 0 &&
        errno != EBUSY)  // the kernel has done it (CONFIG_DEVTMPFS_MOUNT)
        return fail_errno(std::string("mount ") + mount.type + " on " + mount.target);
    return {};
}

// A serial port without an interrupt is polled by its driver a hundred times a second from when it
// is opened on, and not closing it but hanging it up ends that: the kernel, which has opened the
// console for init, never shuts a port down that is its own console. What the kernel prints comes
// out all the same, and whoever opens the port again has it as before.
void hang_up_console() {
    auto active = read_file("/sys/class/tty/console/active");
    if (!active)
        return;
    while (active->ends_with('\n'))
        active->pop_back();
    // The last of them is /dev/console; through that name a terminal cannot be hung up.
    const std::string name = active->substr(active->rfind(' ') + 1);
    UniqueFd console(::open(("/dev/" + name).c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    if (console && ::ioctl(console.get(), TIOCVHANGUP) != 0)
        log_line(fail_errno("TIOCVHANGUP " + name).error().message);
}

// The kernel gives init a console only if the initramfs has /dev/console.
void leave_console() {
    log_to_kernel();
    UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!null)
        return;
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        ::dup2(null.get(), stream);
    if (null.get() <= STDERR_FILENO)
        (void)null.release();
    hang_up_console();
}

// What programs expect in /dev and devtmpfs does not make.
void link_standard_devices() {
    constexpr const char* kLinks[][2] = {{"/proc/self/fd", "/dev/fd"},
                                         {"/proc/self/fd/0", "/dev/stdin"},
                                         {"/proc/self/fd/1", "/dev/stdout"},
                                         {"/proc/self/fd/2", "/dev/stderr"}};
    for (const auto& [target, link] : kLinks)
        (void)!::symlink(target, link);
}

void log_failure(const Status& status) {
    if (!status)
        log_line(status.error().message);
}

Status mount_late(bool memory_tmp) {
    for (const Mount& mount : kLateMounts) {
        Status mounted = mount_one(mount);
        // A kernel without cgroup2 runs commands all the same.
        if (std::string_view(mount.type) == "cgroup2")
            log_failure(mounted);
        else if (!mounted)
            return mounted;
    }
    // On a disk that can be written /tmp stays there: it has more room than the memory.
    if (memory_tmp)
        return mount_one({"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777", 01777});
    ::mkdir("/tmp", 01777);
    return {};
}

void keep_hostname_of_image() {
    auto name = read_file("/etc/hostname");
    if (!name)
        return;
    while (name->ends_with('\n'))
        name->pop_back();
    if (!name->empty() && ::sethostname(name->data(), name->size()) != 0)
        log_failure(fail_errno("sethostname"));
}

void end_every_process() {
    using Clock = std::chrono::steady_clock;
    constexpr std::chrono::milliseconds kGrace{500};
    ::kill(-1, SIGTERM);
    ::kill(-1, SIGCONT);
    const auto deadline = Clock::now() + kGrace;
    for (const int signal : {0, SIGKILL}) {
        if (signal != 0)
            ::kill(-1, signal);
        pid_t ended = 0;
        while ((ended = ::waitpid(-1, nullptr, signal == 0 ? WNOHANG : 0)) >= 0) {
            if (signal == 0 && Clock::now() >= deadline)
                break;
            if (ended == 0)
                ::usleep(5000);
        }
        if (ended < 0 && errno == ECHILD)
            return;
    }
}

}  // namespace

BootOptions parse_boot_options(std::string_view command_line) {
    BootOptions options;
    while (!command_line.empty()) {
        const size_t end = std::min(command_line.find_first_of(" \n"), command_line.size());
        const std::string_view word = command_line.substr(0, end);
        command_line.remove_prefix(std::min(end + 1, command_line.size()));
        const auto value = [&word](std::string_view name, std::string& into) {
            if (word.starts_with(name))
                into = word.substr(name.size());
        };
        value("spore.root=", options.root);
        value("spore.rootfstype=", options.root_type);
        value("spore.rootflags=", options.root_flags);
        if (word == "ro" || word == "rw")
            options.read_only = word == "ro";
    }
    return options;
}

Status start_machine() {
    ::umask(0);
    for (const Mount& mount : kEarlyMounts)
        TRY(mount_one(mount));
    leave_console();
    load_modules();
    const BootOptions options = parse_boot_options(TRY(read_file("/proc/cmdline")));
    const bool on_disk = TRY(switch_root(options));
    TRY(mount_late(!on_disk || options.read_only));
    ::umask(022);
    link_standard_devices();
    keep_hostname_of_image();
    log_failure(raise_loopback());
    log_failure(raise_descriptor_limit());
    log_failure(raise_priority());
    log_failure(write_setting("/proc/self/oom_score_adj", "-1000"));
    return {};
}

void power_off_machine() {
    // A frozen process could not end.
    (void)write_setting("/sys/fs/cgroup/commands/cgroup.freeze", "0");
    end_every_process();
    ::sync();
    (void)::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
    ::sync();
    ::reboot(RB_POWER_OFF);
    // Without a way to switch off, a reset ends a virtual machine just as well.
    ::reboot(RB_AUTOBOOT);
    while (true)
        ::pause();
}

}  // namespace spore
