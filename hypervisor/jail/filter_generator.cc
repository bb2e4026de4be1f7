// Runs when Spore is built: compiles filter_policy.h into BPF by libseccomp, and writes it as C++.
// libseccomp itself takes about a millisecond to build a filter, which no start has to spare.

#include <seccomp.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <span>

#include "hypervisor/jail/filter_policy.h"

namespace {

using spore::filter::Rule;

void must(int result, const char* what) {
    if (result >= 0)
        return;
    std::fprintf(stderr, "filter_generator: %s: error %d\n", what, -result);
    std::exit(1);
}

void add(scmp_filter_ctx context, const Rule& rule) {
    uint32_t action = rule.error != 0 ? SCMP_ACT_ERRNO(static_cast<unsigned>(rule.error))
                                      : static_cast<uint32_t>(SCMP_ACT_ALLOW);
    int added = 0;
    if (rule.mask == 0) {
        added = seccomp_rule_add_exact(context, action, rule.number, 0);
    } else {
        scmp_arg_cmp compare = {rule.argument, SCMP_CMP_MASKED_EQ, rule.mask, rule.value};
        added = seccomp_rule_add_exact_array(context, action, rule.number, 1, &compare);
    }
    must(added, "seccomp_rule_add_exact");
}

void emit(const char* name, std::initializer_list<std::span<const Rule>> lists) {
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (context == nullptr)
        must(-1, "seccomp_init");
    // Another architecture's calls, x32's among them, are off every list.
    must(seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "BADARCH");
    // A binary tree: the first system call costs as much as the last.
    must(seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2), "OPTIMIZE");
    // Of two rules for a call the later list's counts, if that has no condition: allowed where it
    // was allowed for some arguments only, or was refused.
    auto widened = [&](const Rule& rule) {
        for (std::span<const Rule> rules : lists) {
            for (const Rule& other : rules) {
                if (other.number == rule.number && other.mask == 0 && other.error == 0 &&
                    (rule.mask != 0 || rule.error != 0))
                    return true;
            }
        }
        return false;
    };
    for (std::span<const Rule> rules : lists) {
        for (const Rule& rule : rules) {
            if (!widened(rule))
                add(context, rule);
        }
    }
    FILE* file = std::tmpfile();
    if (file == nullptr)
        must(-1, "tmpfile");
    must(seccomp_export_bpf(context, fileno(file)), "seccomp_export_bpf");
    seccomp_release(context);
    must(std::fseek(file, 0, SEEK_SET), "fseek");
    std::printf("inline constexpr sock_filter %s[] = {\n", name);
    struct {
        uint16_t code;
        uint8_t jt, jf;
        uint32_t k;
    } one;
    while (std::fread(&one, sizeof(one), 1, file) == 1)
        std::printf("    {%u, %u, %u, %uu},\n", one.code, one.jt, one.jf, one.k);
    must(std::ferror(file) ? -1 : 0, "fread");
    std::printf("};\n");
    std::fclose(file);
}

}  // namespace

int main() {
    using namespace spore::filter;
    std::printf("// Made by hypervisor/jail/filter_generator.cc of filter_policy.h.\n");
    std::printf("#pragma once\n#include <linux/filter.h>\nnamespace spore::filter {\n");
    emit("kVcpuProgram", {kVcpu});
    emit("kLoopProgram", {kVcpu, kLoop});
    emit("kVcpuSharedPidsProgram", {kVcpu, kSharedPids});
    emit("kLoopSharedPidsProgram", {kVcpu, kLoop, kSharedPids});
    emit("kResolverProgram", {kResolver});
    emit("kKeeperProgram", {kResolver, kKeeper});
    emit("kZygoteProgram", {kVcpu, kLoop, kZygote});
    std::printf("}  // namespace spore::filter\n");
    return 0;
}
