#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <span>

#include "hypervisor/jail/capabilities.h"
#include "hypervisor/jail/filter_programs.h"
#include "hypervisor/jail/jail.h"

namespace spore {

namespace {

std::atomic<bool> jailed = false;

std::span<const sock_filter> program_of(Role role) {
    bool own_pids = ::getpid() == 1;
    switch (role) {
        case Role::vcpu:
            if (own_pids)
                return filter::kVcpuProgram;
            return filter::kVcpuSharedPidsProgram;
        case Role::loop:
            if (own_pids)
                return filter::kLoopProgram;
            return filter::kLoopSharedPidsProgram;
        case Role::zygote:
            return filter::kZygoteProgram;
        case Role::resolver:
            return filter::kResolverProgram;
        case Role::keeper:
            return filter::kKeeperProgram;
    }
    __builtin_unreachable();
}

}  // namespace

Status restrict_thread(Role role) {
    auto instructions = program_of(role);
    sock_fprog program = {};
    program.len = static_cast<unsigned short>(instructions.size());
    program.filter = const_cast<sock_filter*>(instructions.data());  // the kernel only reads it
    if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
        return fail_errno("seccomp filter");
    jailed = true;
    if (role != Role::vcpu)
        keep_item({"seccomp", true, {}});
    return {};
}

Status restrict_if_jailed(Role role) {
    return jailed ? restrict_thread(role) : Status();
}

bool is_jailed() {
    return jailed;
}

}  // namespace spore
