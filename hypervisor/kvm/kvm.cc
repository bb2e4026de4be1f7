#include "hypervisor/kvm/kvm.h"

#include <fcntl.h>

#include <algorithm>
#include <memory>

#include "hypervisor/kvm/kvm_abi.h"

namespace spore {

namespace {

struct Capability {
    unsigned number;
    const char* name;
};

constexpr Capability kRequired[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_XCRS, "KVM_CAP_XCRS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
    {KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
};

}  // namespace

Result<Kvm> Kvm::open() {
    UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!fd)
        return fail_errno("/dev/kvm", errno == ENXIO ? ENOENT : errno);
    Kvm kvm(std::move(fd));
    int version = ::ioctl(kvm.fd(), KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return fail(Code::host_unsupported, "/dev/kvm: API version " + std::to_string(version) +
                                                ", " + std::to_string(KVM_API_VERSION) +
                                                " is needed");
    for (const Capability& capability : kRequired) {
        if (kvm.extension(capability.number) <= 0)
            return fail(Code::host_unsupported, std::string("/dev/kvm: has no ") + capability.name);
    }
    int size = ::ioctl(kvm.fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < static_cast<int>(sizeof(kvm_run)))
        return fail_errno("KVM_GET_VCPU_MMAP_SIZE");
    kvm.vcpu_mmap_bytes_ = static_cast<size_t>(size);
    return kvm;
}

int Kvm::extension(unsigned capability) const {
    return ::ioctl(fd(), KVM_CHECK_EXTENSION, capability);
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
    auto table = std::make_unique<kvm_abi::CpuidTable>();
    table->header.count = kvm_abi::kCpuidEntriesMax;
    if (::ioctl(fd(), kvm_abi::kGetSupportedCpuid, table.get()) != 0)
        return fail_errno("KVM_GET_SUPPORTED_CPUID");
    return std::vector(table->entries.begin(), table->entries.begin() + table->header.count);
}

Result<std::vector<uint32_t>> Kvm::msr_indices() const {
    auto table = std::make_unique<kvm_abi::MsrIndexTable>();
    table->header.count = kvm_abi::kMsrsMax;
    if (::ioctl(fd(), kvm_abi::kGetMsrIndexList, table.get()) != 0)
        return fail_errno("KVM_GET_MSR_INDEX_LIST");
    std::vector<uint32_t> indices(table->entries.begin(),
                                  table->entries.begin() + table->header.count);
    std::ranges::sort(indices);
    return indices;
}

}  // namespace spore
