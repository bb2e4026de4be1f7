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

// KVM's own list leaves the memory types out, which a guest sets up at boot: fixed and variable
// ranges and the default type (SDM 4; KVM has 8 variable ranges).
constexpr uint32_t kMtrrs[] = {0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209,
                               0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268,
                               0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff};

std::unexpected<Error> open_failure(int error) {
    if (error == ENOENT || error == ENXIO || error == ENODEV)
        return fail(Code::host_unsupported,
                    "/dev/kvm: is not there: load kvm_intel or kvm_amd; inside a VM, switch nested "
                    "virtualization on outside");
    if (error == EACCES || error == EPERM)
        return fail(Code::permission_denied,
                    "/dev/kvm: permission denied: join the group kvm, or run as root");
    return fail_errno("/dev/kvm", error);
}

}  // namespace

Result<Kvm> Kvm::open() {
    UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!fd)
        return open_failure(errno);
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
    // Hyper-V's: not offered to our guests, and some of them are clocks.
    std::erase_if(indices, [](uint32_t index) { return index >> 16 == 0x4000; });
    indices.insert(indices.end(), std::begin(kMtrrs), std::end(kMtrrs));
    std::ranges::sort(indices);
    indices.erase(std::unique(indices.begin(), indices.end()), indices.end());
    return indices;
}

}  // namespace spore
