// The filters: every system call that is not on a thread's list kills the process.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <span>

#include "hypervisor/jail/filter_policy.h"
#include "hypervisor/jail/jail.h"
#include "tests/jail/harness.h"
#include "tests/jail/probe.h"

namespace spore {
namespace {

using filter::Rule;

// Above every number that a kernel has given so far (6.18: 469).
constexpr long kNumbers = 512;

struct List {
    const char* role;
    std::vector<std::span<const Rule>> rules;
};

const List kLists[] = {
    {"vcpu", {filter::kVcpu}},
    {"loop", {filter::kVcpu, filter::kLoop}},
    {"zygote", {filter::kVcpu, filter::kLoop, filter::kZygote}},
};

// Of processes that make sockets; what they may not, like all of them.
const List kNetworkLists[] = {
    {"resolver", {filter::kResolver}},
    {"keeper", {filter::kResolver, filter::kKeeper}},
};

bool has(const List& list, long number) {
    return std::ranges::any_of(list.rules, [&](std::span<const Rule> rules) {
        return std::ranges::any_of(rules, [&](const Rule& rule) { return rule.number == number; });
    });
}

// What no list may ever name, whoever edits filter_policy.h.
constexpr long kNever[] = {SYS_open,
                           SYS_openat,
                           SYS_openat2,
                           SYS_creat,
                           SYS_open_by_handle_at,
                           SYS_socket,
                           SYS_socketpair,
                           SYS_connect,
                           SYS_bind,
                           SYS_execve,
                           SYS_execveat,
                           SYS_fork,
                           SYS_vfork,
                           SYS_ptrace,
                           SYS_process_vm_readv,
                           SYS_process_vm_writev,
                           SYS_mount,
                           SYS_umount2,
                           SYS_pivot_root,
                           SYS_chroot,
                           SYS_setns,
                           SYS_unshare,
                           SYS_kill,
                           SYS_tkill,
                           SYS_pidfd_open,
                           SYS_pidfd_getfd,
                           SYS_pidfd_send_signal,
                           SYS_init_module,
                           SYS_finit_module,
                           SYS_delete_module,
                           SYS_bpf,
                           SYS_perf_event_open,
                           SYS_keyctl,
                           SYS_add_key,
                           SYS_request_key,
                           SYS_reboot,
                           SYS_kexec_load,
                           SYS_kexec_file_load,
                           SYS_unlink,
                           SYS_unlinkat,
                           SYS_rename,
                           SYS_renameat2,
                           SYS_mkdir,
                           SYS_link,
                           SYS_symlink,
                           SYS_chmod,
                           SYS_chown,
                           SYS_setuid,
                           SYS_setresuid,
                           SYS_userfaultfd,
                           SYS_memfd_create,
                           SYS_personality,
                           SYS_modify_ldt,
                           SYS_iopl,
                           SYS_ioperm,
                           SYS_arch_prctl};

void PrintTo(const List& list, std::ostream* out) {
    *out << list.role;
}

class Filter : public ::testing::TestWithParam<List> {};

TEST_P(Filter, NamesNothingThatReachesOut) {
    for (long number : kNever) {
        // With one argument, see below.
        bool becomes_nobody = number == SYS_setresuid && GetParam().role == std::string("zygote");
        EXPECT_TRUE(becomes_nobody || !has(GetParam(), number)) << "system call " << number;
    }
}

TEST(ZygoteFilter, LetsAWorkerBecomeNobodyOfItsNamespaceAndNobodyElse) {
    int rules = 0;
    for (const filter::Rule& rule : filter::kZygote) {
        if (rule.number != SYS_setresuid && rule.number != SYS_setresgid)
            continue;
        rules++;
        EXPECT_EQ(rule.argument, 0);
        EXPECT_EQ(rule.mask, filter::k32);
        EXPECT_EQ(rule.value, kJailUser);
    }
    EXPECT_EQ(rules, 2);
}

void expect_all_others_killed(const List& list) {
    int tried = 0;
    for (long number = 0; number < kNumbers; number++) {
        if (has(list, number))
            continue;
        auto ended = run_probe(list.role, "call", static_cast<uint64_t>(number));
        // The kernel lets uretprobe and uprobe past every filter (6.13, 6.18); both refuse whoever
        // is not a trampoline that it has put there itself.
        bool probes = number == 335 || number == 336;
        if (probes && (ended.signal == SIGILL || ended.status == probe::kRefused))
            continue;
        ASSERT_EQ(ended.signal, SIGSYS)
            << "system call " << number << ": status " << ended.status << " " << ended.output;
        tried++;
    }
    EXPECT_GT(tried, 350);
}

TEST_P(Filter, KillsForEverySystemCallOffTheList) {
    expect_all_others_killed(GetParam());
}

class NetworkFilter : public ::testing::TestWithParam<List> {};

TEST_P(NetworkFilter, KillsForEverySystemCallOffTheList) {
    expect_all_others_killed(GetParam());
}

TEST_P(NetworkFilter, NamesNothingThatReachesOut) {
    for (std::span<const Rule> rules : GetParam().rules) {
        for (const Rule& rule : rules) {
            bool may_try =
                rule.number == SYS_connect || rule.number == SYS_socket || rule.error != 0;
            EXPECT_TRUE(may_try || std::ranges::find(kNever, rule.number) == std::end(kNever))
                << "system call " << rule.number;
            if (rule.number == SYS_socket) {
                EXPECT_TRUE(rule.mask == filter::k32 &&
                            (rule.value == AF_INET || rule.value == AF_NETLINK));
            }
        }
    }
}

// From within: what one that a guest, a nameserver or a client has taken over may try.
TEST_P(NetworkFilter, LetsNoAttemptOnTheHostThrough) {
    for (const auto* list : {&probe::attempts_without_filter(), &probe::attempts_against_filter()})
        for (const auto& attempt : *list) {
            // Rules are changed by netlink: those of its own namespace, where alone it has a right.
            if (attempt.name == std::string("call") ||
                attempt.name == std::string("netlink_socket"))
                continue;
            auto ended = run_probe(GetParam().role, attempt.name, 1);
            EXPECT_TRUE(ended.signal == SIGSYS || ended.status == probe::kRefused)
                << attempt.name << ": status " << ended.status << ", signal " << ended.signal;
        }
}

TEST_P(Filter, KillsForEveryAttemptOnTheHost) {
    for (const auto& attempt : probe::attempts_without_filter()) {
        if (attempt.name == std::string("gain_capabilities") &&
            GetParam().role == std::string("zygote"))
            continue;  // capset is on its list, to drop a worker's; refused: see jail_test.cc
        if (attempt.name == std::string("use_descriptors_not_kept") && has(GetParam(), SYS_read))
            continue;  // by calls on its list, which say EBADF: see jail_test.cc
        auto ended = run_probe(GetParam().role, attempt.name, 1);
        EXPECT_EQ(ended.signal, SIGSYS) << attempt.name << ": status " << ended.status;
    }
}

TEST_P(Filter, KillsForArgumentsOffTheList) {
    for (const auto& attempt : probe::attempts_against_filter()) {
        std::string name = attempt.name;
        if (name == "call")
            continue;
        if (name == "unrestricted_ring" && GetParam().role == std::string("zygote"))
            continue;  // a zygote makes its workers' rings
        auto ended = run_probe(GetParam().role, name);
        EXPECT_EQ(ended.signal, SIGSYS) << name << ": status " << ended.status;
    }
}

INSTANTIATE_TEST_SUITE_P(Role, NetworkFilter, ::testing::ValuesIn(kNetworkLists),
                         [](const auto& with) { return std::string(with.param.role); });
INSTANTIATE_TEST_SUITE_P(Role, Filter, ::testing::ValuesIn(kLists),
                         [](const auto& with) { return std::string(with.param.role); });

}  // namespace
}  // namespace spore
