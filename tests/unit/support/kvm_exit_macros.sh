#!/bin/sh
# kvm_exit_macros.sh COMPILER...: a line {"KVM_EXIT_IO", KVM_EXIT_IO}, for each of <linux/kvm.h>
echo '#include <linux/kvm.h>' | "$@" -E -dM -x c - |
    sed -n 's/^#define \(KVM_EXIT_[A-Z0-9_]*\) *[0-9].*/{"\1", \1},/p' | sort
