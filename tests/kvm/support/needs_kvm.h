#pragma once

#include <gtest/gtest.h>

#include "hypervisor/kvm/kvm.h"

// Skips the test, saying why, where this host has no usable /dev/kvm.
#define NEEDS_KVM()                                      \
    do {                                                 \
        auto needed_kvm_ = ::spore::Kvm::open();         \
        if (!needed_kvm_)                                \
            GTEST_SKIP() << needed_kvm_.error().message; \
    } while (false)
