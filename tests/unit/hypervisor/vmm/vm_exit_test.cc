#include "hypervisor/vmm/vm_exit.h"

#include <gtest/gtest.h>
#include <linux/kvm.h>

#include <set>

namespace spore {
namespace {

struct Macro {
    std::string_view name;
    uint32_t number;
};

// Every KVM_EXIT_ number of this build's <linux/kvm.h>, as the preprocessor lists them.
constexpr Macro kMacros[] = {
#include "kvm_exit_macros.inc"
};

// Not exit reasons but words that some of them use for their parts.
bool is_part(std::string_view name) {
    return name == "KVM_EXIT_IO_IN" || name == "KVM_EXIT_IO_OUT" ||
           name.starts_with("KVM_EXIT_HYPERV_") || name.starts_with("KVM_EXIT_XEN_");
}

TEST(VmExit, NamesEveryReasonOfTheKernelsHeader) {
    size_t reasons = 0;
    for (const Macro& macro : kMacros) {
        if (is_part(macro.name))
            continue;
        EXPECT_EQ(kvm_exit_name(macro.number), macro.name);
        reasons++;
    }
    EXPECT_GE(reasons, 38u) << "Linux 6.1 has 38: was the header read?";
}

TEST(VmExit, SaysThatItDoesNotKnowANumber) {
    EXPECT_EQ(kvm_exit_name(1000), "KVM_EXIT_?");
    EXPECT_EQ(kvm_exit_name(~0u), "KVM_EXIT_?");
}

TEST(VmExit, GivesEachReasonAWordOfItsOwn) {
    std::set<std::string_view> words;
    for (int reason = 0; reason <= static_cast<int>(VmExit::Reason::quit); reason++)
        words.insert(reason_name(static_cast<VmExit::Reason>(reason)));
    EXPECT_EQ(words.size(), static_cast<size_t>(VmExit::Reason::quit) + 1);
    EXPECT_FALSE(words.contains("unknown"));
}

}  // namespace
}  // namespace spore
