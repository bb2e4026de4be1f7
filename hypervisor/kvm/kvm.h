#pragma once

// /dev/kvm itself: what this host's KVM offers.

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// Any thread; immutable once open.
class Kvm {
  public:
    // Errors: permission_denied; host_unsupported: no such device, or the capability it lacks.
    static Result<Kvm> open();

    int fd() const { return fd_.get(); }
    // KVM_CHECK_EXTENSION: 0 if `capability` is not there.
    int extension(unsigned capability) const;
    size_t vcpu_mmap_bytes() const { return vcpu_mmap_bytes_; }

    // What KVM can give a guest (KVM_GET_SUPPORTED_CPUID).
    Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
    // The MSRs that make up a vCPU's state, ascending: KVM_GET_MSR_INDEX_LIST and the MTRRs,
    // without Hyper-V's.
    Result<std::vector<uint32_t>> msr_indices() const;

  private:
    explicit Kvm(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
    size_t vcpu_mmap_bytes_ = 0;
};

}  // namespace spore
