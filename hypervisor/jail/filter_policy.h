#pragma once

// The system calls that a jailed thread may make: data for filter_generator.cc, which compiles it
// when Spore is built, and for the tests, which try every other one.

#include <asm/unistd_64.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>

#include "hypervisor/kvm/kvm_abi.h"

namespace spore::filter {

// A system call, and if `mask` is not 0 for which values of one argument: those where
// (argument & mask) == value. Several rules for a call: any of them will do.
struct Rule {
    int number;
    uint8_t argument = 0;
    uint64_t mask = 0;
    uint64_t value = 0;
    int error = 0;  // not 0: refused with it, not allowed
};

inline constexpr uint64_t kNobody = 65534;  // jail.h, kJailUser
constexpr uint64_t k32 = 0xffffffff;        // the kernel takes 32 bits of this argument

constexpr Rule ioctl_of(uint64_t request) {
    return {__NR_ioctl, 1, k32, request};
}
constexpr Rule value_of(int number, uint8_t argument, uint64_t value) {
    return {number, argument, k32, value};
}

// What glibc starts a thread with (pthread_create). It asks clone3 first, whose flags a filter
// cannot see, and falls back upon ENOSYS.
constexpr uint64_t kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                                  CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID |
                                  CLONE_CHILD_CLEARTID;
// What fork_jailed() forks with.
constexpr uint64_t kWorkerFlags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC |
                                  CLONE_NEWUTS | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID |
                                  SIGCHLD;

inline constexpr Rule kVcpu[] = {
    ioctl_of(KVM_RUN),
    ioctl_of(KVM_GET_REGS),       // what is said about an instruction that KVM cannot emulate
    ioctl_of(KVM_KVMCLOCK_CTRL),  // Vcpu::mark_stopped
    {__NR_futex},
    {__NR_write},   // the loop's bell
    {__NR_writev},  // what glibc says before it aborts
    // Memory, never executable.
    {__NR_mmap, 2, PROT_EXEC, 0},
    {__NR_mprotect, 2, PROT_EXEC, 0},
    {__NR_munmap},
    {__NR_mremap},
    {__NR_madvise},
    {__NR_brk},
    {__NR_clock_gettime},
    {__NR_gettimeofday},
    {__NR_getpid},
    {__NR_gettid},
    // The kick and abort(): of a process that is PID 1 of its own namespace, to itself.
    value_of(__NR_tgkill, 0, 1),
    {__NR_rt_sigaction},
    {__NR_rt_sigprocmask},
    {__NR_rt_sigreturn},
    {__NR_restart_syscall},
    {__NR_sched_yield},
    {__NR_sched_getaffinity},  // malloc counts processors
    {__NR_exit},
    {__NR_exit_group},
};

inline constexpr Rule kLoop[] = {
    // A thread may only become poorer.
    value_of(__NR_seccomp, 0, SECCOMP_SET_MODE_FILTER),
    // The ring was made before; it takes the opcodes of event_loop.cc only.
    {__NR_io_uring_enter},
    value_of(__NR_io_uring_register, 1, IORING_REGISTER_FILES2),
    value_of(__NR_io_uring_register, 1, IORING_REGISTER_FILES_UPDATE),
    // Files that are open.
    {__NR_read},
    {__NR_readv},
    {__NR_pread64},
    {__NR_preadv},
    {__NR_pwrite64},
    {__NR_pwritev},
    {__NR_lseek},
    {__NR_fallocate},
    {__NR_ftruncate},
    {__NR_fsync},
    {__NR_fdatasync},
    {__NR_copy_file_range},
    {__NR_fstat},
    value_of(__NR_newfstatat, 3, AT_EMPTY_PATH),  // glibc's fstat
    {__NR_close},
    {__NR_poll},
    value_of(__NR_fcntl, 1, F_GETFL),
    value_of(__NR_fcntl, 1, F_SETFL),
    value_of(__NR_fcntl, 1, F_GETFD),
    value_of(__NR_fcntl, 1, F_SETFD),
    value_of(__NR_fcntl, 1, F_DUPFD_CLOEXEC),
    value_of(__NR_fcntl, 1, F_OFD_SETLK),
    value_of(__NR_fcntl, 1, F_GET_SEALS),
    // Sockets that are open, and those that connect to them.
    {__NR_accept4},
    {__NR_recvmsg},
    {__NR_recvfrom},
    {__NR_sendmsg},
    {__NR_sendto},
    {__NR_shutdown},
    {__NR_getsockopt},
    {__NR_getsockname},
    {__NR_listen},  // on what was bound before; nothing can be bound here
    {__NR_eventfd2},
    {__NR_signalfd4},
    {__NR_getrandom},
    {__NR_sysinfo},
    // A thread, and nothing else that clone makes.
    {__NR_clone, 0, ~uint64_t{0}, kThreadFlags},
    {__NR_clone3, 0, 0, 0, ENOSYS},
    {__NR_set_robust_list},
    {__NR_rseq},
    // KVM, as hypervisor/kvm uses it.
    ioctl_of(KVM_GET_API_VERSION),
    ioctl_of(KVM_CHECK_EXTENSION),
    ioctl_of(KVM_GET_VCPU_MMAP_SIZE),
    ioctl_of(KVM_CREATE_VM),
    ioctl_of(kvm_abi::kGetSupportedCpuid),
    ioctl_of(kvm_abi::kGetMsrIndexList),
    ioctl_of(KVM_ENABLE_CAP),
    ioctl_of(KVM_SET_IDENTITY_MAP_ADDR),
    ioctl_of(KVM_SET_TSS_ADDR),
    ioctl_of(KVM_SET_USER_MEMORY_REGION),
    ioctl_of(KVM_GET_DIRTY_LOG),
    ioctl_of(KVM_SIGNAL_MSI),
    ioctl_of(KVM_IOEVENTFD),
    ioctl_of(KVM_GET_CLOCK),
    ioctl_of(KVM_SET_CLOCK),
    ioctl_of(KVM_CREATE_VCPU),
    ioctl_of(kvm_abi::kSetCpuid2),
    ioctl_of(kvm_abi::kGetCpuid2),
    ioctl_of(KVM_SET_REGS),
    ioctl_of(KVM_GET_SREGS),
    ioctl_of(KVM_SET_SREGS),
    ioctl_of(kvm_abi::kGetMsrs),
    ioctl_of(kvm_abi::kSetMsrs),
    ioctl_of(kvm_abi::kGetXsave),
    ioctl_of(kvm_abi::kGetXsave2),
    ioctl_of(kvm_abi::kSetXsave),
    ioctl_of(KVM_GET_XCRS),
    ioctl_of(KVM_SET_XCRS),
    ioctl_of(KVM_GET_DEBUGREGS),
    ioctl_of(KVM_SET_DEBUGREGS),
    ioctl_of(KVM_GET_LAPIC),
    ioctl_of(KVM_SET_LAPIC),
    ioctl_of(KVM_GET_MP_STATE),
    ioctl_of(KVM_SET_MP_STATE),
    ioctl_of(KVM_GET_VCPU_EVENTS),
    ioctl_of(KVM_SET_VCPU_EVENTS),
    ioctl_of(kvm_abi::kPreFaultMemory),
    ioctl_of(KVM_GET_TSC_KHZ),
    ioctl_of(KVM_SET_TSC_KHZ),
    ioctl_of(KVM_GET_DEVICE_ATTR),
    ioctl_of(KVM_SET_DEVICE_ATTR),
    // An open tap: what it is, and what the driver has accepted.
    ioctl_of(TUNGETIFF),
    ioctl_of(TUNSETVNETHDRSZ),
    ioctl_of(TUNSETOFFLOAD),
};

// Where a host refuses PID namespaces, a process has another number, not known here. Its signals
// reach its own user's processes then; the jail's report says that it shares their PIDs.
inline constexpr Rule kSharedPids[] = {
    {__NR_tgkill},
};

inline constexpr Rule kZygote[] = {
    {__NR_clone, 0, ~uint64_t{0}, kWorkerFlags},
    // Into a worker's cgroup: only clone3 can. Its flags are out of a filter's sight, so a zygote
    // can make any namespace; whatever it makes has this list, and a worker the loop's, where
    // clone3 does not exist.
    {__NR_clone3},
    {__NR_wait4},
    {__NR_waitid},
    // A worker's ring, restricted before it is enabled. A ring without restrictions could open and
    // connect: a worker gives this up with restrict_thread(loop).
    {__NR_io_uring_setup},
    value_of(__NR_io_uring_register, 1, IORING_REGISTER_RESTRICTIONS),
    value_of(__NR_io_uring_register, 1, IORING_REGISTER_ENABLE_RINGS),
    // enter_worker_jail()
    {__NR_capset},
    {__NR_close_range},
    {__NR_prlimit64},
    value_of(__NR_prctl, 0, PR_CAPBSET_DROP),
    value_of(__NR_prctl, 0, PR_CAP_AMBIENT),
    value_of(__NR_prctl, 0, PR_SET_NO_NEW_PRIVS),
    value_of(__NR_prctl, 0, PR_SET_DUMPABLE),
    value_of(__NR_prctl, 0, PR_SET_PDEATHSIG),
    value_of(__NR_prctl, 0, PR_SCHED_CORE),
    // A worker becomes the one user that its keeper has mapped into its namespace, by the name of
    // nobody; nothing else can be asked for.
    value_of(__NR_setresuid, 0, kNobody),
    value_of(__NR_setresgid, 0, kNobody),
    // A worker's log becomes its standard output.
    {__NR_dup2},
    {__NR_dup3},
    {__NR_setsid},
};

// A sandbox's resolver, which reads what guests and nameservers say
// (hypervisor/network/resolver.h): UDP, and netlink to change the rules of its namespace.
// libnftables looks for names of realms and the like at every change, and goes on without.
inline constexpr Rule kResolver[] = {
    {__NR_openat, 0, 0, 0, ENOENT},
    value_of(__NR_socket, 0, AF_INET),
    value_of(__NR_socket, 0, AF_NETLINK),
    {__NR_connect},
    {__NR_sendto},
    {__NR_sendmsg},
    {__NR_recvfrom},
    {__NR_recvmsg},
    {__NR_getsockname},
    {__NR_getsockopt},
    {__NR_setsockopt},
    {__NR_poll},
    {__NR_pselect6},
    {__NR_read},
    {__NR_write},
    {__NR_writev},
    {__NR_close},
    value_of(__NR_newfstatat, 3, AT_EMPTY_PATH),
    value_of(__NR_fcntl, 1, F_GETFL),
    value_of(__NR_fcntl, 1, F_SETFL),
    {__NR_getrandom},
    {__NR_mmap, 2, PROT_EXEC, 0},
    {__NR_mprotect, 2, PROT_EXEC, 0},
    {__NR_munmap},
    {__NR_mremap},
    {__NR_madvise},
    {__NR_brk},
    {__NR_futex},
    {__NR_clock_gettime},
    {__NR_gettimeofday},
    {__NR_getuid},  // libnftables, where SO_SNDBUFFORCE is refused: in a user namespace
    {__NR_geteuid},
    {__NR_getpid},
    {__NR_gettid},
    {__NR_rt_sigaction},
    {__NR_rt_sigprocmask},
    {__NR_rt_sigreturn},
    {__NR_restart_syscall},
    {__NR_exit},
    {__NR_exit_group},
};

// Of a network by passt the keeper, beside that: takes requests of the user's, and asks for the
// flags of its interfaces.
inline constexpr Rule kKeeper[] = {
    {__NR_accept4},
    ioctl_of(SIOCGIFFLAGS),
};

}  // namespace spore::filter
