// What nobody in a jail may do. Every attempt makes its system calls itself, by number.

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tests/jail/probe.h"

namespace spore::probe {

namespace {

template <typename... Arguments>
int call(long number, Arguments... arguments) {
    return ::syscall(number, arguments...) < 0 ? kRefused : kSucceeded;
}

// All of them refused, or the first that is not.
int none_of(std::initializer_list<int> outcomes) {
    for (int outcome : outcomes) {
        if (outcome != kRefused)
            return outcome;
    }
    return kRefused;
}

int open_file(const char* path, int flags) {
    return call(SYS_openat, AT_FDCWD, path, flags, 0600);
}

int open_absolute(uint64_t) {
    return none_of({open_file("/etc/passwd", O_RDONLY), open_file("/dev/null", O_RDWR),
                    open_file("/dev/kvm", O_RDWR), open_file("/bin/sh", O_PATH),
                    open_file("/proc/self/status", O_RDONLY), open_file("/proc/1/mem", O_RDWR),
                    open_file("/sys/kernel", O_RDONLY)});
}

int open_relative(uint64_t) {
    return none_of({open_file("etc/passwd", O_RDONLY), open_file("proc", O_RDONLY),
                    open_file("../etc/passwd", O_RDONLY),
                    open_file("../../../../../../../../etc/passwd", O_RDONLY),
                    call(SYS_chdir, "../../tmp"), call(SYS_chroot, "..")});
}

// Whatever is open leads nowhere.
int open_beside_descriptors(uint64_t) {
    for (int fd = 0; fd < 4096; fd++) {
        int outcome = none_of({call(SYS_openat, fd, "etc/passwd", O_RDONLY, 0),
                               call(SYS_openat, fd, "../etc/passwd", O_RDONLY, 0),
                               call(SYS_openat, fd, "", O_RDONLY, 0), call(SYS_fchdir, fd)});
        if (outcome != kRefused)
            return outcome;
    }
    return kRefused;
}

int use_descriptors_not_kept(uint64_t) {
    char byte = 0;
    return none_of({call(SYS_fcntl, kDirectoryFd, F_GETFD), call(SYS_fcntl, kSocketFd, F_GETFD),
                    call(SYS_read, kSocketFd, &byte, 1)});
}

int create_file(uint64_t) {
    return none_of({open_file("/file", O_CREAT | O_RDWR), open_file("file", O_CREAT | O_RDWR),
                    open_file("/", O_TMPFILE | O_RDWR), call(SYS_mkdir, "/directory", 0700),
                    call(SYS_mknod, "/null", S_IFCHR | 0600, 0x103),
                    call(SYS_symlink, "/etc", "/link")});
}

// By their PIDs outside, and by every one that there might be inside.
int signal_others(uint64_t parent) {
    for (long pid = 2; pid < 2000; pid++) {
        int outcome = none_of({call(SYS_kill, pid, 0), call(SYS_kill, -pid, 0)});
        if (outcome != kRefused)
            return outcome;
    }
    return none_of({call(SYS_kill, parent, 0), call(SYS_kill, -1, 0), call(SYS_tkill, parent, 0),
                    call(SYS_pidfd_open, parent, 0), ::getppid() == 0 ? kRefused : kSucceeded});
}

int trace_others(uint64_t parent) {
    uint64_t word = 0;
    iovec here = {&word, sizeof(word)}, there = {&word, sizeof(word)};
    return none_of({call(SYS_ptrace, PTRACE_ATTACH, parent, 0, 0),
                    call(SYS_ptrace, PTRACE_SEIZE, parent, 0, 0),
                    call(SYS_process_vm_readv, parent, &here, 1, &there, 1, 0),
                    call(SYS_process_vm_writev, parent, &here, 1, &there, 1, 0)});
}

int connect_abstract(uint64_t parent) {
    int fd = static_cast<int>(::syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::string name = "spore-jail-test-" + std::to_string(parent);
    std::memcpy(address.sun_path + 1, name.data(), name.size());
    return call(SYS_connect, fd, &address, offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

int connect_inet(uint64_t parent) {
    int fd = static_cast<int>(::syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(parent));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::syscall(SYS_connect, fd, &address, sizeof(address)) == 0 || errno == EINPROGRESS)
        return kSucceeded;
    return kRefused;
}

int raw_sockets(uint64_t) {
    return none_of({call(SYS_socket, AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)),
                    call(SYS_socket, AF_INET, SOCK_RAW, IPPROTO_ICMP),
                    call(SYS_socket, AF_INET6, SOCK_RAW, IPPROTO_ICMPV6)});
}

int mount_things(uint64_t) {
    return none_of({call(SYS_mount, "none", "/", "tmpfs", 0, nullptr),
                    call(SYS_mount, "none", "/", "proc", 0, nullptr),
                    call(SYS_mount, nullptr, "/", nullptr, MS_REMOUNT | MS_BIND, nullptr),
                    call(SYS_umount2, "/", MNT_DETACH), call(SYS_pivot_root, ".", "."),
                    call(SYS_fsopen, "tmpfs", 0),
                    call(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */)});
}

int load_modules(uint64_t) {
    return none_of({call(SYS_init_module, "x", 1, ""), call(SYS_finit_module, kReportFd, "", 0),
                    call(SYS_delete_module, "kvm", 0)});
}

int take_over_host(uint64_t) {
    timespec time = {};  // as it is: on a host without a jail nothing happens
    ::clock_gettime(CLOCK_REALTIME, &time);
    return none_of({call(SYS_reboot, 0xfee1dead, 672274793, 0, nullptr),
                    call(SYS_kexec_load, 0, 0, nullptr, 0), call(SYS_swapon, "/", 0),
                    call(SYS_clock_settime, CLOCK_REALTIME, &time), call(SYS_acct, "/"),
                    call(SYS_sethostname, "x", 1), call(SYS_iopl, 3), call(SYS_ioperm, 0x60, 4, 1),
                    call(SYS_syslog, 3, nullptr, 0)});
}

int change_identity(uint64_t) {
    return none_of({call(SYS_setuid, 0), call(SYS_setgid, 0), call(SYS_setgroups, 0, nullptr),
                    call(SYS_setresuid, 0, 0, 0)});
}

int join_namespaces(uint64_t) {
    return none_of({call(SYS_setns, kReportFd, 0), call(SYS_unshare, CLONE_NEWNS),
                    call(SYS_unshare, CLONE_NEWNET), call(SYS_unshare, CLONE_NEWPID)});
}

int trace_kernel(uint64_t) {
    bpf_attr program = {};
    program.prog_type = BPF_PROG_TYPE_KPROBE;
    perf_event_attr event = {};
    event.type = PERF_TYPE_TRACEPOINT;
    event.size = sizeof(event);
    return none_of({call(SYS_bpf, BPF_PROG_LOAD, &program, sizeof(program)),
                    call(SYS_perf_event_open, &event, -1, 0, -1, 0)});
}

int gain_capabilities(uint64_t) {
    uint32_t header[2] = {0x20080522, 0}, data[6] = {~0u, ~0u, 0, ~0u, ~0u, 0};
    return call(SYS_capset, header, data);
}

// Against the filter: each of these the kernel might grant.

int any_call(uint64_t number) {
    return call(static_cast<long>(number), 0, 0, 0, 0, 0, 0);
}

int make_user_namespace(uint64_t) {
    return call(SYS_unshare, CLONE_NEWUSER);
}
int fork_process(uint64_t) {
    return call(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
int thread_in_new_namespace(uint64_t) {
    return call(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
}
int execute(uint64_t) {
    char* none[] = {nullptr};
    return call(SYS_execveat, kReportFd, "", none, none, AT_EMPTY_PATH);
}
int executable_memory(uint64_t) {
    return call(SYS_mmap, nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
int make_executable(uint64_t) {
    void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return call(SYS_mprotect, page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
}
int terminal_ioctl(uint64_t) {
    return call(SYS_ioctl, kReportFd, TIOCSTI, "x");
}
int own_signals_of_file(uint64_t) {
    return call(SYS_fcntl, kReportFd, F_SETOWN, 1);
}
int unrestricted_ring(uint64_t) {
    uint32_t parameters[30] = {};
    return call(SYS_io_uring_setup, 1, parameters);
}
int ring_personality(uint64_t) {
    return call(SYS_io_uring_register, kReportFd, 9, nullptr, 0);
}
int signal_another_process(uint64_t) {
    return call(SYS_tgkill, 2, 2, 0);
}
int unix_socket(uint64_t) {
    return call(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
}
int netlink_socket(uint64_t) {
    return call(SYS_socket, AF_NETLINK, SOCK_RAW, 0);
}
int read_keyring(uint64_t) {
    return call(SYS_keyctl, 0, -3, 1, 0, 0);
}
int seccomp_other_operation(uint64_t) {
    return call(SYS_seccomp, 2 /* GET_ACTION_AVAIL */, 0, nullptr);
}
int set_name(uint64_t) {
    return call(SYS_prctl, PR_SET_NAME, "x", 0, 0, 0);
}
// Calls by another table than x86-64's would have other numbers.
int call_as_i386(uint64_t) {
    long result = 20;  // getpid of i386, writev of x86-64: on every list
    asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0), "d"(0) : "memory");
    return result < 0 ? kRefused : kSucceeded;
}
int call_as_x32(uint64_t) {
    return call(0x40000000 | SYS_getpid);
}

}  // namespace

const std::vector<Attempt>& attempts_without_filter() {
    static const std::vector<Attempt> attempts = {
        {"open_absolute", open_absolute},
        {"open_relative", open_relative},
        {"open_beside_descriptors", open_beside_descriptors},
        {"use_descriptors_not_kept", use_descriptors_not_kept},
        {"create_file", create_file},
        {"signal_others", signal_others},
        {"trace_others", trace_others},
        {"connect_abstract", connect_abstract},
        {"connect_inet", connect_inet},
        {"raw_sockets", raw_sockets},
        {"mount_things", mount_things},
        {"load_modules", load_modules},
        {"take_over_host", take_over_host},
        {"change_identity", change_identity},
        {"join_namespaces", join_namespaces},
        {"trace_kernel", trace_kernel},
        {"gain_capabilities", gain_capabilities},
    };
    return attempts;
}

const std::vector<Attempt>& attempts_against_filter() {
    static const std::vector<Attempt> attempts = {
        {"call", any_call},
        {"make_user_namespace", make_user_namespace},
        {"fork_process", fork_process},
        {"thread_in_new_namespace", thread_in_new_namespace},
        {"execute", execute},
        {"executable_memory", executable_memory},
        {"make_executable", make_executable},
        {"terminal_ioctl", terminal_ioctl},
        {"own_signals_of_file", own_signals_of_file},
        {"ring_personality", ring_personality},
        {"unrestricted_ring", unrestricted_ring},
        {"signal_another_process", signal_another_process},
        {"unix_socket", unix_socket},
        {"netlink_socket", netlink_socket},
        {"read_keyring", read_keyring},
        {"set_name", set_name},
        {"seccomp_other_operation", seccomp_other_operation},
        {"call_as_i386", call_as_i386},
        {"call_as_x32", call_as_x32},
    };
    return attempts;
}

}  // namespace spore::probe
